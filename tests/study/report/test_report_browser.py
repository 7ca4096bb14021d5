"""The page of a report in Chromium: nothing of strangers runs, no request leaves, numbers agree.

Skipped where there is no Chromium, unless JAXDEPTH_REQUIRE_CHROMIUM is set. With
JAXDEPTH_SCREENSHOT=FILE.png the top of the page of JAXDEPTH_REPORT=FILE.html is kept as a picture.
"""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from labelled_runs import session_of
from reports.hostile import hostile_strings
from reports.planted import write_sweep

from jaxdepth.study.labelling.spreadsheet import import_csv
from jaxdepth.study.report.page import judge_runs, render
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.report.safe_text import tame
from jaxdepth.study.report.strips import strips_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = not (CHROMIUM and DRIVER)
pytestmark = pytest.mark.skipif(
    MISSING and not os.environ.get("JAXDEPTH_REQUIRE_CHROMIUM"), reason="there is no Chromium"
)
HOSTILE = hostile_strings(300)
WAIT = 300  # seconds; for machines that do much else


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    assert not MISSING, "JAXDEPTH_REQUIRE_CHROMIUM is set: install chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.command_executor.client_config.timeout = 2 * WAIT
    driver.set_page_load_timeout(WAIT)
    driver.set_script_timeout(WAIT)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    """A run of 300 hostile texts and of hostile names; a sample of it is drawn to be labelled."""
    rng = random.Random(1)
    names = [f"{'bad' if n % 2 else 'good'}-{text}" for n, text in enumerate(HOSTILE[:60])]
    outcomes = {name: "".join(rng.choice("rccod") for _ in range(5)) for name in names}
    texts = iter(HOSTILE)
    path = write_sweep(
        tmp_path_factory.mktemp("browser") / "<img src=x onerror=top.pwned=1>",
        outcomes,
        text=lambda *_: next(texts),
        prompt=lambda _: {key: rng.choice(HOSTILE) for key in ("text", "category", "source")},
        model=HOSTILE[0],
        adapter=HOSTILE[1],
    )
    session_of(path, n=60, bands=1)
    return path


@pytest.fixture(scope="module")
def page(browser, run_path, tmp_path_factory):
    """The page, open, with its charts drawn; and what was asked for since."""
    from selenium.webdriver.support.ui import WebDriverWait

    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(read_runs([run_path])), encoding="utf-8")
    browser.get_log("performance")
    browser.get(file.as_uri())
    drawn = "return document.documentElement.dataset.charts"
    WebDriverWait(browser, WAIT).until(lambda b: b.execute_script(drawn) == "drawn")
    return file


def requests_of(browser) -> list[str]:
    """The addresses that pages asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def open_all_rows(browser, count: int) -> list[list[str]]:
    """Open each row and unfold all of it; return the texts of its answers, deepest first."""
    return browser.execute_async_script(
        """
        const done = arguments[1], texts = [];
        (async () => {
          for (let row = 0; row < arguments[0]; row++) {
            await openRow(0, row);
            document.querySelectorAll("#reader details").forEach((d) => { d.open = true; });
            await new Promise((settled) => setTimeout(settled, 20));
            document.querySelectorAll(".answer button").forEach((b) => {
              if (b.textContent === "show the rest") b.click();
            });
            texts.push([...document.querySelectorAll(".answer")].map((card) =>
              card.querySelector(".model-text").textContent));
          }
          done(texts);
        })();
        """,
        count,
    )


def test_no_script_of_strangers_runs_and_no_request_leaves(browser, page, run_path):
    texts = open_all_rows(browser, 60)
    (run,) = read_runs([run_path])
    answers = run.frame("generations").set_index(["prompt_id", "exit"])["text"]
    for name, shown in zip(run.prompts.index, texts, strict=True):
        assert shown == [tame(answers[name, e]) for e in (5, 4, 3, 2, 1)]
    assert browser.execute_script("return window.pwned") is None
    assert browser.execute_script("return document.querySelectorAll('iframe, object').length") == 0
    beyond = [url for url in requests_of(browser) if not url.startswith(("data:", "blob:"))]
    assert beyond == [page.as_uri()]
    severe = [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
    ]
    assert severe == []


def test_the_slider_shows_what_python_computes(browser, page, run_path):
    runs = read_runs([run_path])
    tolerances, _, (judged,) = judge_runs(runs)
    (strip,) = strips_of(runs[0])
    for step, tolerance in enumerate(tolerances):
        words, lines = browser.execute_script(
            """
            const slider = document.getElementById("slider");
            slider.value = arguments[0];
            slider.dispatchEvent(new Event("input"));
            const texts = (selector) =>
              [...document.querySelectorAll(selector)].map((e) => e.textContent);
            return [texts(".strip .word"), texts(".sentences p")];
            """,
            step,
        )
        assert words == strip.verdicts(tolerance)
        assert lines == judged.at(tolerance)


def test_filters_choose_rows(browser, page, run_path):
    (run,) = read_runs([run_path])
    rows = browser.execute_script("return document.querySelectorAll('#grid .row').length")
    assert 20 < rows < 60  # those in sight, of 60: so that thousands scroll
    outcomes = run.frame("generations").pivot(index="prompt_id", columns="exit", values="outcome")
    changed = (outcomes.ne(outcomes[5], axis=0) & (outcomes == "comply")).any(axis=1)
    is_bad = outcomes.index.str.startswith("bad")
    count = browser.execute_script(
        """
        document.getElementById("f-label").value = "1";
        document.getElementById("f-outcome").value = "c";
        document.getElementById("f-changed").checked = true;
        applyFilters();
        return shown.length;
        """
    )
    assert count == int((changed & is_bad).sum())
    assert 0 < count < 30


def test_labels_go_into_the_file_that_label_takes(browser, page, run_path, tmp_path):
    content, count = browser.execute_async_script(
        """
        const done = arguments[0];
        URL.createObjectURL = (blob) => {
          blob.text().then((text) => done([text, given.size]));
          return "#";
        };
        (async () => {
          const cells = DATA.grids[0];
          for (let place = 0; place < cells.drawn.length; place++) {
            if (cells.drawn[place] !== "1") continue;
            const width = cells.columns.length;
            const names = Object.values(DATA.outcomes);
            await giveLabel(`0.${Math.floor(place / width)}.${place % width}`, names[place % 3]);
          }
          saveLabels();
        })();
        """
    )
    file = tmp_path / "labels.csv"
    file.write_text("\ufeff" + content.removeprefix("\ufeff"), encoding="utf-8", newline="")
    session = session_of(run_path, n=60, bands=1)
    assert import_csv(session, file) == count == len(session.items)
    assert session.labelled == count


@pytest.mark.slow
def test_a_page_of_2000_prompts_at_32_exits_opens_and_scrolls(browser, tmp_path):
    """Opened in less than 3 s, and no frame of scrolling takes longer than half a second."""
    rng = random.Random(0)
    outcomes = {
        f"{'bad' if n % 2 else 'good'}{n}": "".join(rng.choices("rccod", k=32)) for n in range(2000)
    }
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5000)]
    path = write_sweep(
        tmp_path / "run", outcomes, text=lambda *_: " ".join(rng.choices(words, k=60))
    )
    file = tmp_path / "report.html"
    file.write_text(render(read_runs([path])), encoding="utf-8")
    assert file.stat().st_size < 15e6
    browser.get(file.as_uri())
    opened = browser.execute_script(
        "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    )
    assert 0 < opened < 3000
    longest, top, places = browser.execute_async_script(
        """
        const done = arguments[0], seen = [];
        let longest = 0, last = performance.now();
        const step = () => {
          const now = performance.now();
          longest = Math.max(longest, now - last);
          last = now;
          const rows = [...grid.querySelectorAll(".row")].map((row) => Number(row.dataset.row));
          seen.push(Math.max(...rows));
          if (seen.length > 60) { done([longest, grid.scrollTop, seen]); return; }
          grid.scrollTop += grid.scrollHeight / 60;
          requestAnimationFrame(step);
        };
        requestAnimationFrame(step);
        """
    )
    assert longest < 500
    assert top > 1900 * 20
    assert places[-1] == 1999
    assert len(set(places)) > 50


@pytest.mark.skipif("JAXDEPTH_SCREENSHOT" not in os.environ, reason="no picture is asked for")
def test_picture_of_the_top(browser):
    browser.set_window_size(1280, 1060)
    browser.get(Path(os.environ["JAXDEPTH_REPORT"]).resolve().as_uri())
    browser.save_screenshot(os.environ["JAXDEPTH_SCREENSHOT"])
