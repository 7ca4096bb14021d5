"""Charts of runs that decide first: verdicts by exit, and their calibration."""

from collections.abc import Sequence

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.refusal.protocol import VERDICTS, Verdict
from jaxdepth.study.report.charts.base import (
    PATTERNS,
    Chart,
    axes_of,
    line,
    outcome_colour,
    outcome_name,
    stacked,
)
from jaxdepth.study.report.reading import ReportRun
from jaxdepth.study.verdicts.score_table import ScoreTable

_EXIT = "exit (layers run)"
_THOUGHT = "thought"  # the source of verdicts after the whole thought


def decided_charts(runs: Sequence[ReportRun]) -> list[Chart]:
    """The verdicts of each run that has any, then accuracy and calibration of all."""
    if not runs:
        return []
    charts = [verdicts_chart(run, number) for number, run in enumerate(runs) if _labels(run)]
    return [*charts, calibration_chart(runs)]


def _labels(run: ReportRun) -> list[str]:
    """The labels of prompts that got verdicts; none where all activations were NaN or infinite."""
    scores = ScoreTable(run.path)
    return [
        label
        for label in ("harmful", "harmless")
        if np.isfinite(scores.estimate(_THOUGHT, f"refuse_{label}").value).any()
    ]


def verdicts_chart(run: ReportRun, number: int = 0) -> Chart:
    """Stacked shares of verdicts by exit, harmful prompts beside harmless ones."""
    scores, labels = ScoreTable(run.path), _labels(run)
    layout = axes_of([f"{label} prompts" for label in labels], _EXIT, "share of verdicts")
    layout["barmode"] = "stack"
    traces, shown = [], []
    for panel, label in enumerate(labels):
        for verdict in (*map(str, VERDICTS), str(Verdict.ABSTAIN)):
            e = scores.estimate(_THOUGHT, f"{verdict}_{label}")
            notes = [f"{v:.0%} of {e.n}" for v in e]
            is_abstained = verdict == Verdict.ABSTAIN
            colour = outcome_colour("degenerate" if is_abstained else verdict, label)
            pattern = PATTERNS["degenerate"] if is_abstained else PATTERNS.get(verdict, "")
            traces.append(
                stacked(outcome_name(verdict, label), scores.exits, e.value, notes, colour, panel,
                        pattern, legend=not panel or verdict == Outcome.COMPLY)
            )  # fmt: skip
        refused = scores.estimate(_THOUGHT, f"refuse_{label}").value[-1]
        shown.append(f"{refused:.0%} of {label} prompts")
    return Chart(
        name=f"verdicts-{number}",
        title=f"Verdicts of {run.name} after the thought",
        alt=f"Verdicts by exit; at the deepest exit REFUSE on {' and '.join(shown)}.",
        traces=traces,
        layout=layout,
    )


def calibration_chart(runs: Sequence[ReportRun]) -> Chart:
    """Balanced accuracy of verdicts, and the calibration error of their probabilities."""
    panels = ("balanced accuracy of verdicts", "calibration error (root mean square)")
    traces, shown = [], []
    for number, run in enumerate(runs):
        scores = ScoreTable(run.path)
        for panel, metric in enumerate(("balanced_accuracy", "calibration_error")):
            e = scores.estimate(_THOUGHT, metric)
            traces.append(line(run.name, scores.exits, e, number, panel, legend=not panel))
            if not panel:
                shown.append(f"{run.name} {e[-1]:.0%}")
    return Chart(
        name="calibration",
        title="Are verdicts right, and as sure as they should be?",
        alt=f"Balanced accuracy at the deepest exit: {'; '.join(shown)}.",
        note="Bars: 95% of each exit alone. Chance is 50%; an error of 0 is perfect calibration.",
        traces=traces,
        layout=axes_of(panels, _EXIT, "share"),
    )
