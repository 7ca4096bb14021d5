"""Figures of a sweep, each drawn from its tables alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.figures import (
    CANNOT,
    COLOURS,
    OUTCOMES,
    STYLES,
    UNLABELLED_COLOUR,
    UNLABELLED_STYLE,
    band,
    by_exit,
    hatch,
    new_figure,
    save_all,
)
from jaxdepth.study.labelling.figures import corrected_levels, draw_corrected
from jaxdepth.study.run_directory import read_record
from jaxdepth.study.sweep.curves import DepthCurves, depth_curves
from jaxdepth.study.sweep.rates import Rates, read_windows
from jaxdepth.study.sweep.windows import ExitWindows, Verdict

_LEGEND = {"framealpha": 0.9, "edgecolor": "none"}  # readable over hatched exits


def draw_sweep(run_path: str | Path, curves: DepthCurves | None = None) -> dict[Path, str]:
    """Draw first-token measures and, where answers were generated, outcomes.

    Args:
        run_path: a finished sweep.
        curves: its first-token curves; by default they are computed, with the run's own seed.

    Returns:
        PNG path -> caption; an SVG lies beside each.
    """
    record = read_record(run_path)
    if curves is None:
        curves = depth_curves(run_path, record["settings"]["seed"])
    has_answers = GENERATIONS.name in record["tables"]
    windows = read_windows(run_path) if has_answers else None
    figures = draw_first_token(curves, Path(run_path) / "figures", windows)
    if has_answers:
        figures |= draw_outcomes(run_path)
    return figures


def draw_first_token(
    curves: DepthCurves, folder: str | Path, windows: ExitWindows | None = None
) -> dict[Path, str]:
    """Draw refusal log-odds by exit, and agreement with full depth and KL divergence by exit.

    Exits that cannot answer are hatched, where `windows` says which.
    """
    refusal = new_figure(2 if curves.difference else 1)
    top = refusal.axes[0]
    _bands(top, curves, curves.refusal_log_odds)
    top.set_ylabel("refusal log-odds of\nthe first token (nats)")
    top.set_title("How strongly each exit opens with a refusal")
    if curves.difference:
        bottom = refusal.axes[1]
        band(bottom, curves.exits, curves.difference, "0.25", "harmful - harmless, 95% band", "o-")
        bottom.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        bottom.set_ylabel("difference (nats)")
        bottom.legend(frameon=False)

    agreement = new_figure(2)
    top, bottom = agreement.axes
    _bands(top, curves, curves.agrees_with_full)
    top.set_ylim(-0.03, 1.03)
    top.set_ylabel("share with full depth's\ntop token")
    top.set_title("How far each exit is from full depth (first token)")
    _bands(bottom, curves, curves.kl_to_full)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("KL(full depth || exit)\n(nats)")

    if windows is not None:
        for axes in (*refusal.axes, *agreement.axes):
            hatch(axes, windows.exits, windows.cannot_answer(), CANNOT)
    refusal.axes[0].legend(**_LEGEND)
    agreement.axes[0].legend(**_LEGEND)
    figures = {
        "refusal_log_odds": (refusal, "how strongly each exit opens with a refusal, by label"),
        "agreement": (agreement, "how far each exit is from full depth: top token, and KL"),
    }
    return save_all(figures, folder)


def draw_outcomes(run_path: str | Path) -> dict[Path, str]:
    """Draw shares of outcomes by exit, the unsafe window and over-refusal; exits that cannot answer
    are hatched.
    """
    rates, windows = Rates.read(run_path), read_windows(run_path)
    caption = "outcomes of each exit's answers, by label; hatched: exits that cannot answer"
    figures = {"outcomes": (_outcome_shares(rates, windows), caption)}
    if "harmful" in rates.labels:
        window = _unsafe_window(rates, windows)
        _correct(window, run_path, "harmful", Outcome.COMPLY)
        figures["unsafe_window"] = (
            window,
            "where harmful prompts are answered to the point, by exits that can answer",
        )
    if "harmless" in rates.labels:
        over = _over_refusal(rates, windows)
        _correct(over, run_path, "harmless", Outcome.REFUSE, Outcome.PARTIAL)
        figures["over_refusal"] = over, "how often each exit refuses harmless prompts"
    return save_all(figures, Path(run_path) / "figures")


def _outcome_shares(rates: Rates, windows: ExitWindows):
    """The shares of all outcomes by exit as stacked bars, one panel a label."""
    figure = new_figure(len(rates.labels))
    for axes, label in zip(figure.axes, rates.labels, strict=True):
        bottom_E = np.zeros(len(rates.exits))
        for outcome, colour in OUTCOMES.items():
            share_E = rates.of(outcome, label).value
            axes.bar(
                rates.exits,
                share_E,
                bottom=bottom_E,
                color=colour,
                label="comply (to the point)" if outcome == Outcome.COMPLY else outcome,
                width=0.9,
                edgecolor="0.6",
                linewidth=0.4,
            )
            bottom_E = bottom_E + share_E
        axes.set_ylabel(f"share of answers to\n{label} prompts (n={rates.count(label)})")
        axes.set_ylim(0, 1)
        _hatch_bars(axes, windows)
        by_exit(axes, rates.exits)
    figure.axes[0].set_title("Outcomes of each exit's answers")
    figure.axes[0].legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.07))
    figure.supxlabel(rates.detection_error, fontsize="x-small", color="0.4")
    return figure


def _hatch_bars(axes, windows: ExitWindows) -> None:
    """Hatch the whole bars of exits that cannot answer."""
    exits = windows.exits[windows.cannot_answer()]
    if len(exits):
        axes.bar(
            exits,
            np.ones(len(exits)),
            width=0.9,
            facecolor="none",
            edgecolor="0.35",
            hatch="///",
            linewidth=0,
            label=CANNOT,
        )


def _unsafe_window(rates: Rates, windows: ExitWindows):
    """Harmful prompts answered to the point by exit, with both kinds of bounds, and off-topic."""
    figure = new_figure(1)
    axes, exits = figure.axes[0], rates.exits
    colour = OUTCOMES[Outcome.COMPLY]
    comply, off_topic = (rates.of(o, "harmful") for o in (Outcome.COMPLY, Outcome.OFF_TOPIC))
    band(axes, exits, comply, colour, "answered to the point, 95% band of each exit", "o-")
    all_at_once = {"color": colour, "linewidth": 0.8, "linestyle": ":"}
    axes.plot(exits, windows.band_low, **all_at_once, label="bounds of all exits at once, 95%")
    axes.plot(exits, windows.band_high, **all_at_once)
    axes.plot(exits, off_topic.value, "s--", color="#a8792a", markersize=3.5, label="off-topic")
    unsafe_E = windows.verdict == Verdict.UNSAFE
    if unsafe_E.any():
        marker = {"color": colour, "markersize": 9, "alpha": 0.5}
        axes.plot(exits[unsafe_E], comply.value[unsafe_E], "o", **marker, label="unsafe")
    axes.axhline(windows.unsafe_from, color="0.4", linewidth=0.8, linestyle="-.",
                 label=f"tolerated: {windows.unsafe_from:.0%}")  # fmt: skip
    hatch(axes, exits, windows.cannot_answer(), CANNOT)
    axes.set_title(
        "The unsafe window: harmful prompts answered to the point\nby exits that can answer"
        if windows.can_answer().any()
        else "Harmful prompts answered to the point\n(which exits can answer is not known)"
    )
    return _finish(figure, rates, "harmful")


def _over_refusal(rates: Rates, windows: ExitWindows):
    """Harmless prompts refused, in whole and in part, and answered to the point."""
    figure = new_figure(1)
    axes, exits = figure.axes[0], rates.exits
    for outcome, style in ((Outcome.REFUSE, "o-"), (Outcome.PARTIAL, "s--")):
        e = rates.of(outcome, "harmless")
        band(axes, exits, e, OUTCOMES[outcome], f"{outcome}, 95% band", style)
    comply = rates.of(Outcome.COMPLY, "harmless")
    axes.plot(
        exits, comply.value, "^:", color="0.35", markersize=3.5, label="answered to the point"
    )
    hatch(axes, exits, windows.cannot_answer(), CANNOT)
    axes.set_title("Over-refusal: harmless prompts refused")
    return _finish(figure, rates, "harmless")


def _correct(figure, run_path: str | Path, label: str, *outcomes: Outcome) -> None:
    """Add the rates that a person's labels correct, if there are some."""
    axes = figure.axes[0]
    for outcome in outcomes:
        levels = corrected_levels(run_path, label, outcome)
        draw_corrected(axes, levels, OUTCOMES[outcome], f"{outcome}, corrected by labels")
    axes.legend(frameon=False, fontsize="small")


def _finish(figure, rates: Rates, label: str):
    """Label the axes of a figure of rates, and state the detector's error."""
    axes = figure.axes[0]
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(f"share of answers to\n{label} prompts (n={rates.count(label)})")
    axes.legend(**_LEGEND, fontsize="small")
    figure.supxlabel(rates.detection_error, fontsize="x-small", color="0.4")
    return figure


def _bands(axes, curves: DepthCurves, by_label: Mapping[str, Estimate]) -> None:
    """One measure by exit, a line with a 95% band for each label."""
    for label, e in by_label.items():
        name = f"{label} ({e.n} prompts), 95% band"
        colour = COLOURS.get(label, UNLABELLED_COLOUR)
        style = STYLES.get(label, UNLABELLED_STYLE)
        band(axes, curves.exits, e, colour, name, style)
