"""Figures of a run, each drawn from its tables alone, as PNG and SVG."""

from pathlib import Path

import matplotlib
import matplotlib.ticker

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.run_directory import write_once
from jaxdepth.study.sweep.curves import DepthCurves
from jaxdepth.study.sweep.rates import Rates

OUTCOMES = {  # from dark to light as a text says less
    "refuse": "#1f6fa8",
    "partial": "#7fb2d6",
    "comply": "#b5312b",
    "undetermined": "#c9c9c9",
    "degenerate": "#eeeeee",
}
COLOURS = {"harmful": "#b5312b", "harmless": "#1f6fa8"}
STYLES = {"harmful": "o-", "harmless": "s--"}  # told apart where they lie on each other


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
                e.mean,
                bottom=base,
                color=colour,
                label=outcome,
                width=0.9,
                edgecolor="0.6",
                linewidth=0.4,
            )
            base = base + e.mean
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


def new_figure(rows: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2 if rows == 1 else 5.6), layout="constrained")
    for axes in figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    axes.set_xlabel("exit (layers run)")
    return figure


def _bands(axes, curves: DepthCurves, estimates: dict[str, Estimate]) -> None:
    for label in curves.labels:
        name = f"{label} ({curves.counts[label]} prompts), 95% band"
        band(axes, curves.exits, estimates[label], COLOURS[label], name, STYLES[label])


def band(axes, exits, e: Estimate, colour: str, name: str, style: str) -> None:
    axes.plot(exits, e.mean, style, color=colour, markersize=3.5, label=name)
    axes.fill_between(exits, e.low, e.high, color=colour, alpha=0.2, linewidth=0)
    by_exit(axes, exits)


def by_exit(axes, exits) -> None:
    axes.set_xlim(exits[0] - 0.7, exits[-1] + 0.7)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=12))


def save_all(drawn: dict[str, tuple], folder: str | Path) -> dict[Path, str]:
    """Saves figures by name, each given with what it shows; returns the PNG files with that."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (figure, _) in drawn.items():
        save(figure, folder / name)
    return {folder / f"{name}.png": shows for name, (_, shows) in drawn.items()}


def save(figure, path: Path) -> None:
    for target in (path.with_suffix(".png"), path.with_suffix(".svg")):
        kind = target.suffix[1:]
        # A fixed date and salt make the same tables give the same bytes.
        plain = {"Date": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context({"svg.hashsalt": "jaxdepth"}):
            write_once(target, lambda p: figure.savefig(p, format=kind, dpi=150, metadata=plain))  # noqa: B023
