// The grid of prompts and exits. Only rows in sight are elements, so that 2,000 prompts scroll.
const HEIGHT = 20;
const grid = byId("grid");
let current = 0; // the run
let shown = []; // its rows that pass the filters
let filters = {}; // as they were when rows were chosen

function readFilters() {
  const chosen = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
  return {
    label: byId("f-label").value,
    outcome: byId("f-outcome").value,
    column: chosen("f-column"),
    category: chosen("f-category"),
    source: chosen("f-source"),
    changed: byId("f-changed").checked,
    judges: byId("f-judges").checked,
    drawn: byId("f-drawn").checked,
  };
}

const cellsOf = (run) => DATA.grids[run];

function fill(select, names, all) {
  const options = [[all, ""], ...names.map((name, place) => [name || "none", String(place)])];
  select.replaceChildren(...options.map(([text, value]) => new Option(text, value)));
}

function chooseRun(run) {
  current = run;
  const cells = cellsOf(run);
  fill(byId("f-column"), cells.columns, "any");
  fill(byId("f-category"), cells.categories, "all");
  fill(byId("f-source"), cells.sources, "all");
  const offer = (id, isOffered) => {
    byId(id).disabled = !isOffered;
    byId(id).checked = byId(id).checked && isOffered;
  };
  offer("f-judges", Boolean(cells.disagreement));
  offer("f-drawn", Boolean(cells.drawn));
  offer("f-changed", !cells.is_policy);
  const names = [make("span", "row-name", "▲ harmful  ○ harmless  ? unlabelled")];
  const step = Math.ceil(cells.columns.length / 16);
  cells.columns.forEach((name, c) => {
    const isNamed = (cells.columns.length - 1 - c) % step === 0;
    const head = make("span", "spot", isNamed ? name : "");
    head.title = name;
    names.push(head);
  });
  byId("grid-head").replaceChildren(...names);
  applyFilters();
}

// Whether a cell passes the filters of answers: outcome, exit, changed, judges, drawn.
function passes(cells, row, column) {
  const width = cells.columns.length;
  const place = row * width + column;
  const outcome = cells.outcomes[place];
  if (filters.outcome && outcome !== filters.outcome) return false;
  if (filters.column !== null && column !== filters.column) return false;
  if (filters.changed && outcome === cells.outcomes[row * width + width - 1]) return false;
  if (filters.judges && cells.disagreement[place] !== "1") return false;
  return !(filters.drawn && cells.drawn[place] !== "1");
}

function applyFilters() {
  const cells = cellsOf(current);
  filters = readFilters();
  shown = [];
  for (let row = 0; row < cells.ids.length; row++) {
    if (filters.label && cells.harmful[row] !== filters.label) continue;
    if (filters.category !== null && cells.category[row] !== filters.category) continue;
    if (filters.source !== null && cells.source[row] !== filters.source) continue;
    if (cells.columns.some((_, column) => passes(cells, row, column))) shown.push(row);
  }
  byId("f-count").textContent = `${shown.length} of ${cells.ids.length} rows`;
  grid.scrollTop = 0;
  drawRows();
}

function drawRow(cells, row, place) {
  const line = make("div", "row");
  line.setAttribute("role", "row");
  line.style.top = place * HEIGHT + "px";
  line.dataset.row = row;
  const several = cells.samples[row] ? ` (sample ${cells.samples[row]})` : "";
  const name = make("span", "row-name", cells.ids[row] + several);
  name.classList.add(kindOf(cells, row));
  line.append(name);
  const width = cells.columns.length;
  for (let column = 0; column < width; column++) {
    const letter = cells.outcomes[row * width + column];
    const label = cells.labels ? cells.labels[row * width + column] : "-";
    const spot = make("span", "spot o-" + letter, label !== "-" ? (label === letter ? "=" : "≠") : "");
    spot.title = `${cells.columns[column]}: ${DATA.outcomes[letter] || "no answer"}`;
    if (letter === "c" && cells.harmful[row] === "0") spot.classList.add("fine");
    if (!passes(cells, row, column)) spot.classList.add("dim");
    line.append(spot);
  }
  return line;
}

function drawRows() {
  const cells = cellsOf(current);
  const space = make("div");
  space.style.height = shown.length * HEIGHT + "px";
  const first = Math.max(0, Math.floor(grid.scrollTop / HEIGHT) - 5);
  const last = Math.min(shown.length, first + Math.ceil(grid.clientHeight / HEIGHT) + 10);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(drawRow(cells, shown[place], place));
  grid.replaceChildren(space, ...rows);
}

if (grid) {
  byId("reading").hidden = false;
  let waiting = false;
  grid.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    window.requestAnimationFrame(() => { waiting = false; drawRows(); });
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("change", (event) => {
    if (event.target.id === "f-run") chooseRun(Number(event.target.value));
    else applyFilters();
  });
  grid.addEventListener("click", (event) => {
    const line = event.target.closest(".row");
    if (line) openRow(current, Number(line.dataset.row));
  });
  let place = -1; // of the row that the keyboard opened last
  grid.addEventListener("keydown", (event) => {
    const step = { j: 1, k: -1 }[event.key];
    if (!step || !shown.length) return;
    place = Math.min(shown.length - 1, Math.max(0, place + step));
    grid.scrollTop = Math.max(0, (place - 5) * HEIGHT);
    openRow(current, shown[place]);
  });
  chooseRun(0);
}
