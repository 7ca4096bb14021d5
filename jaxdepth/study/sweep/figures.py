"""Figures of a sweep, each drawn from its tables alone."""

from pathlib import Path

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.figures import COLOURS, OUTCOMES, STYLES, band, by_exit, new_figure, save_all
from jaxdepth.study.run_directory import read_record
from jaxdepth.study.sweep.curves import DepthCurves, depth_curves
from jaxdepth.study.sweep.rates import Rates


def draw_sweep(run_path: str | Path, seed: int = 0) -> dict[Path, str]:
    """Draws the first token's figures and, where answers were generated, the outcomes'.

    Args:
        run_path: a finished sweep.
        seed: of bootstrap intervals.

    Returns:
        The PNG files that were written, each with its caption; an SVG lies beside each.
    """
    figures = draw_first_token(depth_curves(run_path, seed), Path(run_path) / "figures")
    if "generations" in read_record(run_path)["tables"]:
        figures |= draw_outcomes(run_path)
    return figures


def draw_first_token(curves: DepthCurves, folder: str | Path) -> dict[Path, str]:
    """Draws refusal log-odds by depth, and agreement with full depth and KL to it by depth.

    Returns:
        The PNG files that were written, each with what it shows; an SVG lies beside each.
    """
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

    shows = "how far each exit is from full depth: top token, and KL"
    drawn = {
        "refusal_log_odds": (refusal, "how strongly each exit opens with a refusal, by label"),
        "agreement": (agreement, shows),
    }
    return save_all(drawn, folder)


def draw_outcomes(run_path: str | Path) -> dict[Path, str]:
    """Draws outcome shares by exit, the unsafe window, and over-refusal, from the curve table.

    Returns:
        The PNG files that were written, each with what it shows; an SVG lies beside each.
    """
    rates = Rates.read(run_path)
    note = rates.detection_error
    drawn = {}
    shares = new_figure(len(rates.labels))
    for axes, label in zip(shares.axes, rates.labels, strict=True):
        base = 0.0
        for outcome, colour in OUTCOMES.items():
            e = rates.of(outcome, label)
            axes.bar(
                rates.exits,
                e.value,
                bottom=base,
                color=colour,
                label=outcome,
                width=0.9,
                edgecolor="0.6",
                linewidth=0.4,
            )
            base = base + e.value
        axes.set_ylabel(f"share of answers to\n{label} prompts (n={rates.counts[label]})")
        axes.set_ylim(0, 1)
        by_exit(axes, rates.exits)
    shares.axes[0].set_title("What each exit did")
    shares.axes[0].legend(
        frameon=False, ncols=len(OUTCOMES), loc="lower center", bbox_to_anchor=(0.5, 1.07)
    )
    shares.supxlabel(note, fontsize="x-small", color="0.4")
    drawn["outcomes"] = shares, "what each exit did: outcome shares by label"

    if "harmful" in rates.labels:
        window = _two_rates(rates, "harmful", ("comply", "degenerate"), note)
        window.axes[0].set_title("The unsafe window: harmful prompts answered coherently")
        drawn["unsafe_window"] = window, "where harmful prompts are answered coherently"
    if "harmless" in rates.labels:
        over = _two_rates(rates, "harmless", ("refuse", "partial"), note)
        over.axes[0].set_title("Over-refusal: harmless prompts refused")
        drawn["over_refusal"] = over, "how often each exit refuses harmless prompts"
    return save_all(drawn, Path(run_path) / "figures")


def _two_rates(rates: Rates, label: str, outcomes: tuple[str, str], note: str):
    """Two outcomes of the prompts of a label by exit, with bands and a note below."""
    figure = new_figure(1)
    axes = figure.axes[0]
    for outcome, style in zip(outcomes, ("o-", "s--"), strict=True):
        # What is degenerate is drawn darker here than where it fills an area.
        colour = "0.55" if outcome == "degenerate" else OUTCOMES[outcome]
        name = f"{'coherent compliance' if outcome == 'comply' else outcome}, 95% band"
        band(axes, rates.exits, rates.of(outcome, label), colour, name, style)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(f"share of answers to\n{label} prompts (n={rates.counts[label]})")
    axes.legend(frameon=False)
    figure.supxlabel(note, fontsize="x-small", color="0.4")
    return figure


def _bands(axes, curves: DepthCurves, estimates: dict[str, Estimate]) -> None:
    for label in curves.labels:
        name = f"{label} ({curves.counts[label]} prompts), 95% band"
        band(axes, curves.exits, estimates[label], COLOURS[label], name, STYLES[label])
