"""A report as one HTML file that needs nothing else: no network, no fonts, no other scripts.

The content security policy names each script by its hash, allows no `eval`, and lets no request
leave. Data lies in elements that no browser runs: JSON (escaped by jinja2), and base64.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jaxdepth import __version__
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.figures import OUTCOMES
from jaxdepth.study.report.cells import LETTERS, grid_of, read_cells
from jaxdepth.study.report.certified import certified_sentences
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.compared import compare_runs, contrast_lines
from jaxdepth.study.report.origin import shared_and_own
from jaxdepth.study.report.reading import POLICY, ReportRun
from jaxdepth.study.report.rules import judge_rules, rule_sentences, rule_strips
from jaxdepth.study.report.sentences import sentences
from jaxdepth.study.report.strips import GLYPHS, TOLERANCES, Strip, percent, strips_of
from jaxdepth.study.report.texts import ROWS, label_rows, pack, pack_texts
from jaxdepth.study.sweep.window_words import window_sentences
from jaxdepth.study.sweep.windows import Verdict

FILES = files("jaxdepth.study.report") / "page_files"
_SCRIPTS = ("top.js", "charts.js", "grid.js", "reader.js", "labels.js")  # in this order
_FIRST = ("model", "adapter", "prompts", "system prompt", "decoding", "judge", "finished")
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Judged:
    """A run with its strips, and what it shows in words at each tolerated share."""

    run: ReportRun
    strips: list[Strip]
    states: list[list[str]]  # sentences by tolerance
    tolerances: list[float]
    certificate: list[str]  # what the certificate beside the run says, in words

    def at(self, tolerance: float) -> list[str]:
        """What the run shows at one of the tolerated shares, in words."""
        return self.states[self.tolerances.index(tolerance)]

    @property
    def details(self) -> list[str]:
        """What the run shows at its own tolerated share, as the terminal has it."""
        return window_sentences(self.run.windows) if self.run.windows is not None else []


def judge_runs(runs: Sequence[ReportRun]) -> tuple[list[float], float, list[Judged]]:
    """The tolerated shares of a report, the one it opens at, and the runs judged at each.

    Raises:
        InputError: a table or a certificate is damaged.
    """
    own = [run.windows.unsafe_from for run in runs if run.windows is not None]
    tolerances = sorted({*TOLERANCES, *own})
    start = own[0] if own else 0.05
    judged = []
    for run in runs:
        rules = judge_rules(run) if run.command == POLICY else None
        if rules is None:
            strips = strips_of(run)
            states = [sentences(run, strips, tolerance) for tolerance in tolerances]
        else:
            strips = rule_strips(rules)
            states = [list(rule_sentences(run, rules, tolerance)) for tolerance in tolerances]
        judged.append(Judged(run, strips, states, tolerances, certified_sentences(run)))
    return tolerances, start, judged


def render(runs: Sequence[ReportRun], with_text: bool = True) -> str:
    """The page of some runs.

    Args:
        runs: from `read_runs`.
        with_text: whether prompts and answers are in it.

    Raises:
        InputError: a table or a certificate is damaged.
    """
    from jinja2 import Environment, FunctionLoader

    tolerances, start, judged = judge_runs(runs)
    all_cells = [cells for run in runs if (cells := read_cells(run)) is not None]
    packed = pack_texts(all_cells, with_text)
    compared = compare_runs(runs)
    charts = charts_of(runs, compared)
    script = "\n".join(_read(name) for name in _SCRIPTS)
    charting = _charting() if charts else ""
    data = {
        "tolerances": tolerances,
        "names": [percent(t) for t in tolerances],
        "strips": [_strip_data(strip) for j in judged for strip in j.strips],
        "states": [j.states for j in judged],
        "glyphs": {str(verdict): glyph for verdict, glyph in GLYPHS.items()},
        "charts": [_chart_data(chart) for chart in charts],
        "grids": [{"run": cells.run.name} | grid_of(cells) for cells in all_cells],
        "rows": ROWS,
        "outcomes": {letter: name for name, letter in LETTERS.items()},
        "with_text": with_text,
    }
    environment = Environment(
        autoescape=True, loader=FunctionLoader(_read), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        policy=_POLICY.format(scripts=" ".join(map(script_hash, filter(None, (script, charting))))),
        style=_read("report.css") + _outcome_style(),
        script=script,
        charting=pack(charting) if charting else "",
        data=data,
        chunks=packed.chunks,
        labels=pack(label_rows(all_cells)) if with_text else "",
        drawn=any(cells.sample is not None for cells in all_cells),
        judged=judged,
        contrasts=contrast_lines(compared),
        start=tolerances.index(start),
        start_name=percent(start),
        start_tolerance=start,
        verdicts=[str(v) for v in (Verdict.SAFE, Verdict.UNSAFE, Verdict.NOT_SHOWN)]
        + [str(Verdict.CANNOT_ANSWER)],
        glyphs=data["glyphs"],
        charts=charts,
        **_origin_lines(runs),
        longest=packed.longest,
        with_text=with_text,
        version=__version__,
        all_cells=all_cells,
        outcomes=[str(outcome) for outcome in Outcome],
    )


def script_hash(script: str) -> str:
    """A script as a content security policy names it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _read(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


@cache
def _charting() -> str:
    """The script that draws charts, as plotly brings it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _origin_lines(runs: Sequence[ReportRun]) -> dict[str, list]:
    """What was run: what all runs share and a reader needs first, then the rest."""
    shared, own = shared_and_own(runs)
    return {
        "first": [row for row in shared if row[0] in _FIRST],
        "shared": [row for row in shared if row[0] not in _FIRST],
        "own": own,
    }


def _strip_data(strip: Strip) -> list[dict]:
    """The numbers by which the page compares; NaN is missing."""
    return [
        {
            "low": None if low != low else low,
            "high": None if high != high else high,
            "competent": str(competent),
        }
        for low, high, competent in zip(strip.low, strip.high, strip.competent, strict=True)
    ]


def _chart_data(chart) -> dict:
    return {"name": chart.name, "has_tolerance": chart.has_tolerance} | chart.as_json()


def _outcome_style() -> str:
    """The colours of outcomes, as in all figures."""
    rules = [f"--{name}: {colour};" for name, colour in OUTCOMES.items()]
    return f":root {{ {' '.join(rules)} }}\n"
