"""Charts by exit: outcomes, the unsafe window, over-refusal, and the distance from full depth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.report.charts.base import (
    PATTERNS,
    Chart,
    axes_of,
    line,
    outcome_colour,
    outcome_name,
    rule_at,
    stacked,
)
from jaxdepth.study.report.reading import ReportRun
from jaxdepth.study.report.strips import counted
from jaxdepth.study.sweep.rates import answered
from jaxdepth.study.sweep.windows import Competence

_EXIT = "exit (layers run)"


def exit_charts(runs: Sequence[ReportRun]) -> list[Chart]:
    """The charts of all runs whose exits answered, and of those with first tokens only."""
    answering = [run for run in runs if run.outcomes is not None]
    charts = [window_chart(answering)] if any(_harmful(run) for run in answering) else []
    charts += [outcomes_chart(run, number) for number, run in enumerate(answering)]
    if any(run.outcomes is not None and "harmless" in run.outcomes.labels_N for run in answering):
        charts += [over_refusal_chart(answering)]
    with_curve = [run for run in runs if run.curve is not None and run.command == "sweep"]
    return charts + ([distance_chart(with_curve)] if with_curve else [])


def outcomes_chart(run: ReportRun, number: int = 0) -> Chart:
    """Stacked outcomes by exit, harmful prompts beside harmless ones."""
    assert run.outcomes is not None
    assert run.curve is not None
    labels = sorted(set(run.outcomes.labels_N))
    layout = axes_of([f"{label} prompts" for label in labels], _EXIT, "share of answers")
    layout["barmode"] = "stack"
    traces, shown = [], []
    for panel, label in enumerate(labels):
        for outcome in Outcome:
            e = _measure(run.curve, f"outcome_{outcome}", label)
            notes = [f"{counted(v.value, e.n or 0)}, {v:.0%}" for v in e]
            traces.append(
                stacked(
                    outcome_name(outcome, label), run.outcomes.exits, e.value, notes,
                    outcome_colour(outcome, label), panel, PATTERNS.get(str(outcome), ""),
                    legend=not panel or outcome == Outcome.COMPLY,
                )
            )  # fmt: skip
        comply = _measure(run.curve, "outcome_comply", label).value
        best = int(np.argmax(comply))
        shown.append(
            f"{label} prompts are answered to the point most often at exit "
            f"{run.outcomes.exits[best]} ({comply[best]:.0%})"
        )
    return Chart(
        name=f"outcomes-{number}",
        title=f"What {run.name} does with each prompt, by exit",
        alt=f"Stacked shares of six outcomes by exit: {'; '.join(shown)}.",
        traces=traces,
        layout=layout,
    )


def window_chart(runs: Sequence[ReportRun]) -> Chart:
    """Harmful prompts answered to the point with simultaneous bounds, and the tolerated share."""
    traces: list[dict] = []
    shown, tolerance = [], 0.05
    for number, run in enumerate(runs):
        w = run.windows
        if w is None or w.harmful is None:
            continue
        tolerance = w.unsafe_from if not traces else tolerance
        e = Estimate(w.harmful.value, w.band_low, w.band_high, n=w.harmful.n)
        hollow = [c != Competence.YES for c in w.competent]
        notes = [
            f"{counted(v, w.harmful.n or 0)}; can answer: {c}"
            for v, c in zip(w.harmful.value, w.competent, strict=True)
        ]
        traces.append(line(run.name, w.exits, e, number, hollow=hollow, notes=notes, of=len(runs)))
        best = int(np.argmax(w.harmful.value))
        shown.append(f"{run.name} at most {w.harmful.value[best]:.0%} (exit {w.exits[best]})")
    layout = axes_of(["harmful prompts answered to the point"], _EXIT, "share of prompts")
    layout["shapes"] = rule_at(tolerance)
    return Chart(
        name="window",
        title="Unsafe window",
        alt=f"Harmful prompts answered to the point by exit: {'; '.join(shown)}.",
        note="Bars hold for all exits of a run at once (95%). Hollow: exits that are not shown to "
        "be able to answer. Dashed: the tolerated share. An exit is unsafe where its bar lies "
        "above it, safe where the bar of a filled marker lies below.",
        traces=traces,
        layout=layout,
        has_tolerance=True,
    )


def over_refusal_chart(runs: Sequence[ReportRun]) -> Chart:
    """Harmless prompts refused, in whole or in part, and answered to the point."""
    panels = ("harmless prompts refused, in whole or in part", "harmless prompts answered")
    traces, shown = [], []
    for number, run in enumerate(runs):
        if run.outcomes is None or "harmless" not in run.outcomes.labels_N:
            continue
        for panel, which in enumerate(((Outcome.REFUSE, Outcome.PARTIAL), (Outcome.COMPLY,))):
            e = answered(run.outcomes, "harmless", *which).by_exit()
            notes = [counted(v, e.n or 0) for v in e.value]
            traces.append(
                line(run.name, run.outcomes.exits, e, number, panel, legend=not panel, notes=notes,
                     of=len(runs))
            )  # fmt: skip
            if not panel:
                shown.append(f"{run.name} {e.value[-1]:.0%}")
    return Chart(
        name="over-refusal",
        title="Over-refusal, and what is left of harmless answers",
        alt=f"Harmless prompts refused at the deepest exit: {'; '.join(shown)}.",
        note="Bars: 95% of each exit alone.",
        traces=traces,
        layout=axes_of(panels, _EXIT, "share of prompts"),
    )


def distance_chart(runs: Sequence[ReportRun]) -> Chart:
    """Agreement of the first token with full depth, and KL divergence from it."""
    panels = ("same first token as full depth", "KL(full depth || exit), nats")
    layout = axes_of(panels, _EXIT, "share of prompts")
    layout["yaxis2"] |= {"tickformat": "", "rangemode": "tozero"}
    layout["yaxis2"].pop("range", None)
    traces, shown = [], []
    for number, run in enumerate(runs):
        assert run.curve is not None
        for panel, metric in enumerate(("agrees_with_full", "kl_to_full")):
            labels = sorted(run.curve.loc[run.curve["metric"] == metric, "label"].unique())
            for place, label in enumerate(labels[: 2 if len(runs) == 1 else 1]):
                rows = run.curve[(run.curve["metric"] == metric) & (run.curve["label"] == label)]
                rows = rows.sort_values("exit")
                e = _measure(run.curve, metric, label)
                spec = ".0%" if not panel else ".2f"
                traces.append(
                    line(f"{run.name}, {label}", rows["exit"], e, number + place, panel, spec=spec,
                         legend=not panel)
                )  # fmt: skip
                if not panel and np.isfinite(e.value[:-1]).any():
                    early = np.nanmax(e.value[:-1])
                    shown.append(f"{run.name} at most {early:.0%} before its deepest exit")
    return Chart(
        name="distance",
        title="How far each exit is from full depth (first token)",
        alt=f"Agreement of the first token with full depth: {'; '.join(shown)}.",
        note="Bars: 95% of each exit alone.",
        traces=traces,
        layout=layout,
    )


def _measure(curve: pd.DataFrame, metric: str, label: str) -> Estimate:
    """A measure of the curve at every exit, with the interval of that exit alone."""
    rows = curve[(curve["metric"] == metric) & (curve["label"] == label)].sort_values("exit")
    never_null = ["exit", "value"] if metric.startswith("outcome_") else ["exit"]
    if rows.empty or rows[never_null].isna().any(axis=None):
        raise InputError(
            f"a table curve has no {metric} of {label} prompts, or not at every exit: it is "
            "damaged, run the command again to another --out"
        )
    bounds = (rows[name].to_numpy(float) for name in ("value", "low", "high"))
    return Estimate(*bounds, n=int(rows["n"].iloc[0]))


def _harmful(run: ReportRun) -> bool:
    return run.windows is not None and run.windows.harmful is not None
