// Charts: the library is unpacked when the page is shown, then charts are drawn one by one.
const settled = () => new Promise((done) => {
  (window.requestIdleCallback || window.setTimeout)(done, { timeout: 500 });
});

async function drawCharts() {
  const script = make("script");
  script.textContent = await unpack("charting"); // the policy of the page has its hash
  document.head.append(script);
  for (const chart of DATA.charts) {
    await settled();
    const place = byId("chart-" + chart.name);
    await Plotly.newPlot(place, chart.data, chart.layout, { displayModeBar: false, responsive: true });
    if (chart.has_tolerance) {
      const move = (tolerance) =>
        Plotly.relayout(place, { "shapes[0].y0": tolerance, "shapes[0].y1": tolerance });
      move(DATA.tolerances[Number(byId("slider").value)]);
      document.addEventListener("tolerance", (event) => move(event.detail));
    }
  }
  document.documentElement.dataset.charts = "drawn";
}

if (byId("charts")) {
  byId("charts").hidden = false;
  window.addEventListener("load", () => settled().then(drawCharts));
}
