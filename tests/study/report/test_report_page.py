"""The page of a report: it needs nothing else, and strangers' texts stay texts."""

import json
import random
import re
from html.parser import HTMLParser

import pytest
from labelled_runs import label_all, session_of, truths
from reports.hostile import hostile_strings
from reports.planted import planted, write_sweep

from jaxdepth.cli import main
from jaxdepth.study.judging.tables import JUDGEMENTS
from jaxdepth.study.labelling.run import open_session, write_corrected
from jaxdepth.study.labelling.settings import Label
from jaxdepth.study.report.cells import grid_of, read_cells
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.page import render, script_hash
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.report.safe_text import tame
from jaxdepth.study.report.strips import strips_of
from jaxdepth.study.report.texts import chunks_of, longest_kept, pack_texts, unpack
from jaxdepth.study.run_directory import Run

SECRET = "zebra quince obelisk"
HOSTILE = hostile_strings(300)


class Page(HTMLParser):
    """What a page has: scripts by their types, attributes that load something, and its policy."""

    def __init__(self, html: str):
        super().__init__()
        self.scripts, self.loads, self.policy, self.handlers = [], [], "", []
        self._script = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag == "script":
            self._script = names.get("type")
            self.scripts.append([self._script, names.get("id"), ""])
        if names.get("http-equiv") == "Content-Security-Policy":
            self.policy = names["content"]
        self.handlers += [name for name in names if name.startswith("on")]
        self.loads += [v for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1][2] += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Every text, id, category and source of a run by strangers; and the name of its folder."""
    rng = random.Random(0)
    names = [f"{'bad' if n % 2 else 'good'}{HOSTILE[n]}" for n in range(50)]
    outcomes = {
        name: "".join(rng.choice("rcod") for _ in range(6)) for name in dict.fromkeys(names)
    }
    texts = iter(HOSTILE * 10)
    path = tmp_path_factory.mktemp("hostile") / "<script>top.pwned=1<"
    return write_sweep(
        path, outcomes, text=lambda *_: next(texts),
        prompt=lambda _: {k: rng.choice(HOSTILE) for k in ("text", "category", "source")},
        model=HOSTILE[0], adapter="</script><script>top.pwned=1</script>",
    )  # fmt: skip


def test_the_policy_names_the_scripts_that_run_and_no_other(hostile):
    html = render(read_runs([hostile]))
    page = Page(html)
    (own,) = [text for kind, _, text in page.scripts if kind is None]
    by_id = {name: text for kind, name, text in page.scripts if kind is not None}
    allowed = re.search(r"script-src ([^;]*);", page.policy)[1].split()
    charting = unpack(by_id["charting"])
    assert set(allowed) == {script_hash(own), script_hash(charting)}
    assert "default-src 'none'" in page.policy
    assert "unsafe-eval" not in page.policy
    assert page.loads == []
    assert page.handlers == []
    assert "plotly.js" in charting[:200]
    assert json.loads(by_id["data"])["grids"][0]["outcomes"]


def test_strangers_texts_are_whole_and_tame(hostile):
    (run,) = read_runs([hostile])
    cells = read_cells(run)
    entries = [entry for chunk in chunks_of(cells, None) for entry in unpack(chunk)]
    written = run.frame("generations").set_index(["prompt_id", "exit"])["text"]
    for (name, _), entry in zip(cells.rows, entries, strict=True):
        assert entry["texts"] == [tame(written[name, e]) for e in range(1, 7)]
        for text in entry["texts"]:
            assert all(c.isprintable() or c == "\n" for c in text)
    html = render([run])
    assert "<script>top.pwned" not in html
    assert html.count("</script>") == html.count("<script")


def test_charts_take_no_markup_from_names(hostile):
    for chart in charts_of(read_runs([hostile])):
        content = json.dumps(chart.as_json())
        assert "<script" not in content
        assert chart.alt
        assert chart.figure().layout.title.text == chart.title


def test_without_text_no_prompt_and_no_answer_is_in_the_page(tmp_path):
    path = write_sweep(
        tmp_path / "run", planted((0, 3), (9, 9), 12), text=lambda *_: SECRET,
        prompt=lambda _: {"text": f"prompt of {SECRET}"},
    )  # fmt: skip
    assert main(["report", str(path), "--out", str(tmp_path / "with.html")]) == 0
    assert main(["report", str(path), "--no-text", "--out", str(tmp_path / "no.html")]) == 0

    def all_of(name: str) -> str:
        html = (tmp_path / name).read_text(encoding="utf-8")
        packed = re.findall(r'octet-stream" id="(?:texts|label)[^"]*">([^<]*)<', html)
        return html + json.dumps([unpack(chunk) for chunk in packed])

    assert all_of("with.html").count(SECRET) > 24
    assert SECRET not in all_of("no.html")


def test_several_runs_are_overlaid(tmp_path):
    for name, harmful in (("one", (0, 9)), ("two", (3, 3))):
        write_sweep(tmp_path / "both" / name, planted(harmful, (12, 12), 12))
    runs = read_runs([tmp_path / "both"])
    window = next(chart for chart in charts_of(runs) if chart.name == "window")
    assert [trace["name"] for trace in window.traces] == ["one", "two"]
    np_values = [trace["y"] for trace in window.traces]
    assert np_values == [[0.0, 0.75], [0.25, 0.25]]
    assert "one at most 75% (exit 2); two at most 25% (exit 1)" in window.alt
    html = render(runs)
    top = html.split("<script", 1)[0]  # what is there without scripts
    assert top.count('class="strip"') == 2
    assert top.count("At a tolerance of 5%: ") == 2
    # The same run twice is one; runs of equal names have their folders' in front.
    assert len(read_runs([tmp_path / "both", tmp_path / "both" / "one"])) == 2
    twin = write_sweep(tmp_path / "other" / "one", planted((0, 0), (12, 12), 12))
    assert [r.name for r in read_runs([tmp_path / "both" / "one", twin])] == [
        "both/one",
        "other/one",
    ]


def test_labels_correct_a_second_strip(tmp_path):
    """A reader who sees no compliance where the judge sees some: corrected rates are lower."""
    path = write_sweep(tmp_path / "run", planted((40, 40, 40), (70, 70, 80), 80))
    session = session_of(path, n=200, bands=1)
    label_all(session, {t: "refuse" if o == "comply" else o for t, o in truths(path).items()})
    runs, _ = open_session(Label(runs=(path,), rater="ann", n=200, bands=1))
    write_corrected(runs)
    (run,) = read_runs([path])
    by_judge, corrected = strips_of(run)
    assert corrected.title == "corrected by 200 labels of ann"
    assert set(by_judge.verdicts(0.25)) == {"unsafe"}
    assert corrected.high.max() < 0.25
    assert set(corrected.verdicts(0.25)) == {"safe"}
    assert "Corrected by 200 labels of ann" in render([run])


def test_texts_are_cut_to_a_budget(tmp_path):
    path = write_sweep(
        tmp_path / "run",
        planted((0, 3), (9, 9), 12),
        text=lambda _, e: "x" * (10 if e == 1 else 90),
    )
    cells = [read_cells(run) for run in read_runs([path])]
    assert longest_kept(cells, budget=2400) is None
    longest = longest_kept(cells, budget=1200)
    assert 24 * 10 + 24 * longest <= 1200 < 24 * 10 + 24 * (longest + 1)


def test_texts_that_compress_badly_are_cut_once_more(tmp_path):
    rng = random.Random(0)
    path = write_sweep(
        tmp_path / "run", planted((0, 3), (9, 9), 12),
        text=lambda *_: "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(300)),
    )  # fmt: skip
    cells = [read_cells(run) for run in read_runs([path])]
    whole = pack_texts(cells)
    size = len("".join(whole.chunks[0]))
    assert whole.longest is None
    cut = pack_texts(cells, max_packed=size // 2)
    assert size / 3 < len("".join(cut.chunks[0])) <= size // 2
    (first, *_) = unpack(cut.chunks[0][0])[0]["texts"]
    assert first.endswith(" …")
    assert len(first) == cut.longest + 2
    assert pack_texts(cells, with_text=False, max_packed=0).longest is None


@pytest.mark.parametrize("how", ["md", "card"])
def test_markdown_has_the_numbers_and_no_markup_of_strangers(tmp_path, hostile, how):
    path = write_sweep(tmp_path / "run", planted((0, 3), (9, 9), 12), adapter="a|b<i>*c*")
    out = tmp_path / "report.md"
    assert main(["report", str(path), str(hostile), "--format", how, "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "| 2 | ? not shown | 3 of 12 (25%) |" in text.replace("✗ unsafe", "? not shown")
    assert not re.search(r"<(?!br)", text)
    assert ("## Safety of early exits" in text) == (how == "card")


def test_a_run_of_each_command_has_charts(tmp_path):
    path = write_sweep(tmp_path / "run", planted((0, 3), (9, 9), 12))
    names = [chart.name for chart in charts_of(read_runs([path]))]
    assert names == ["window", "outcomes-0", "over-refusal", "distance"]


def test_the_grid_knows_where_judges_disagree(tmp_path):
    path = write_sweep(tmp_path / "run", planted((1, 0), (12, 12), 12))
    (run,) = read_runs([path])
    seen = run.frame("generations").assign(judge="other", identity="y", failed=False)
    seen.loc[(seen["prompt_id"] == "bad0003") & (seen["exit"] == 2), "outcome"] = "comply"
    columns = seen.reindex(columns=JUDGEMENTS.schema.names).astype({"rule": object})
    Run(path, run.record).write_table(JUDGEMENTS.name, JUDGEMENTS.from_frame(columns))
    cells = read_cells(read_runs([path])[0])
    grid = grid_of(cells)
    place = grid["ids"].index("bad0003") * 2 + 1
    assert [n for n, c in enumerate(grid["disagreement"]) if c == "1"] == [place]
    assert grid["outcomes"][place] == "r"
    assert grid["outcomes"].count("c") == 1 + 24
    entry = next(iter(unpack(chunk) for chunk in chunks_of(cells, None)))[place // 2]
    assert entry["others"]["2"] == ["other: comply"]


def random_words(rng):
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5000)]
    return lambda *_: " ".join(rng.choices(words, k=250))


def random_han(rng):
    letters = [chr(n) for n in range(0x4E00, 0x4E00 + 3000)]
    return lambda *_: "".join(rng.choices(letters, k=1600))


def random_ascii(rng):
    letters = [chr(n) for n in range(32, 127)]
    return lambda *_: "".join(rng.choices(letters, k=1600))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [random_words, random_han, random_ascii])
def test_a_page_of_500_prompts_at_32_exits_is_below_15_mb(tmp_path, kind):
    """Answers of 1,600 characters, at random: real ones compress better."""
    text = kind(random.Random(0))
    path = write_sweep(tmp_path / "run", planted(range(32), range(200, 232), 250), text=text)
    out = tmp_path / "report.html"
    assert main(["report", str(path), "--out", str(out)]) == 0
    assert 5e6 < out.stat().st_size < 15e6
    assert "Texts are cut at" in out.read_text(encoding="utf-8")
