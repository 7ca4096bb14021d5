"""Figures of a run, each drawn from its tables alone, as PNG and SVG."""

from pathlib import Path

import matplotlib
import matplotlib.ticker

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.atomic_files import write_once

OUTCOMES = {  # from dark to light as a text says less
    "refuse": "#1f6fa8",
    "partial": "#7fb2d6",
    "comply": "#b5312b",
    "undetermined": "#c9c9c9",
    "degenerate": "#eeeeee",
}
COLOURS = {"harmful": "#b5312b", "harmless": "#1f6fa8"}
STYLES = {"harmful": "o-", "harmless": "s--"}  # told apart where they lie on each other


def new_figure(rows: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2 if rows == 1 else 5.6), layout="constrained")
    for axes in figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    axes.set_xlabel("exit (layers run)")
    return figure


def band(axes, exits, e: Estimate, colour: str, name: str, style: str) -> None:
    axes.plot(exits, e.value, style, color=colour, markersize=3.5, label=name)
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
