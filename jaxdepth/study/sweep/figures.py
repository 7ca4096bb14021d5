"""Figures of a sweep, each drawn from its tables alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.figures import COLOURS, OUTCOMES, STYLES, band, by_exit, new_figure, save_all
from jaxdepth.study.run_directory import read_record
from jaxdepth.study.sweep.curves import DepthCurves, depth_curves
from jaxdepth.study.sweep.rates import Rates


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
    figures = draw_first_token(curves, Path(run_path) / "figures")
    if GENERATIONS.name in record["tables"]:
        figures |= draw_outcomes(run_path)
    return figures


def draw_first_token(curves: DepthCurves, folder: str | Path) -> dict[Path, str]:
    """Draw refusal log-odds by exit, and agreement with full depth and KL divergence by exit."""
    refusal = new_figure(2 if curves.difference else 1)
    top = refusal.axes[0]
    _bands(top, curves, curves.refusal_log_odds)
    top.set_ylabel("refusal log-odds of\nthe first token (nats)")
    top.set_title("How strongly each exit opens with a refusal")
    top.legend(frameon=False)
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
    top.legend(frameon=False, loc="upper left")
    _bands(bottom, curves, curves.kl_to_full)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("KL(full depth || exit)\n(nats)")

    figures = {
        "refusal_log_odds": (refusal, "how strongly each exit opens with a refusal, by label"),
        "agreement": (agreement, "how far each exit is from full depth: top token, and KL"),
    }
    return save_all(figures, folder)


def draw_outcomes(run_path: str | Path) -> dict[Path, str]:
    """Draw shares of outcomes by exit, the unsafe window and over-refusal."""
    rates = Rates.read(run_path)
    figures = {"outcomes": (_outcome_shares(rates), "outcomes of each exit's answers, by label")}
    if "harmful" in rates.labels:
        window = _two_rates(rates, "harmful", Outcome.COMPLY, Outcome.DEGENERATE)
        window.axes[0].set_title("The unsafe window: harmful prompts answered coherently")
        figures["unsafe_window"] = window, "where harmful prompts are answered coherently"
    if "harmless" in rates.labels:
        over = _two_rates(rates, "harmless", Outcome.REFUSE, Outcome.PARTIAL)
        over.axes[0].set_title("Over-refusal: harmless prompts refused")
        figures["over_refusal"] = over, "how often each exit refuses harmless prompts"
    return save_all(figures, Path(run_path) / "figures")


def _outcome_shares(rates: Rates):
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
                label=outcome,
                width=0.9,
                edgecolor="0.6",
                linewidth=0.4,
            )
            bottom_E = bottom_E + share_E
        axes.set_ylabel(f"share of answers to\n{label} prompts (n={rates.count(label)})")
        axes.set_ylim(0, 1)
        by_exit(axes, rates.exits)
    figure.axes[0].set_title("Outcomes of each exit's answers")
    figure.axes[0].legend(
        frameon=False, ncols=len(OUTCOMES), loc="lower center", bbox_to_anchor=(0.5, 1.07)
    )
    figure.supxlabel(rates.detection_error, fontsize="x-small", color="0.4")
    return figure


def _two_rates(rates: Rates, label: str, *outcomes: Outcome):
    """Two outcomes of the prompts of a label by exit, with bands and the detector's error."""
    figure = new_figure(1)
    axes = figure.axes[0]
    for outcome, style in zip(outcomes, ("o-", "s--"), strict=True):
        # As a line, degenerate text needs a darker grey than as an area.
        colour = "0.55" if outcome == Outcome.DEGENERATE else OUTCOMES[outcome]
        name = "coherent compliance" if outcome == Outcome.COMPLY else str(outcome)
        band(axes, rates.exits, rates.of(outcome, label), colour, f"{name}, 95% band", style)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(f"share of answers to\n{label} prompts (n={rates.count(label)})")
    axes.legend(frameon=False)
    figure.supxlabel(rates.detection_error, fontsize="x-small", color="0.4")
    return figure


def _bands(axes, curves: DepthCurves, by_label: Mapping[str, Estimate]) -> None:
    """One measure by exit, a line with a 95% band for each label."""
    for label, e in by_label.items():
        name = f"{label} ({e.n} prompts), 95% band"
        band(axes, curves.exits, e, COLOURS[label], name, STYLES[label])
