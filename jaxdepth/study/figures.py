"""What the figures of all studies share: colours, axes, bands, and saving as PNG and SVG."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from jaxdepth.model import Ints
from jaxdepth.runtime.folders import use_matplotlib_folder
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.atomic_files import write_once

use_matplotlib_folder()

import matplotlib  # noqa: E402 (it looks for its folder at once)
import matplotlib.ticker  # noqa: E402

if TYPE_CHECKING:  # imported where a figure is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTCOMES = {  # colours
    "refuse": "#1f6fa8",
    "partial": "#7fb2d6",
    "comply": "#b5312b",  # answered to the point
    "off-topic": "#d9b36c",
    "undetermined": "#c9c9c9",
    "degenerate": "#eeeeee",
}
COLOURS = {"harmful": "#b5312b", "harmless": "#1f6fa8"}
CANNOT = "cannot answer"  # what hatched exits are called
STYLES = {"harmful": "o-", "harmless": "s--"}  # lines that overlap stay distinct
UNLABELLED_COLOUR, UNLABELLED_STYLE = "#555555", "^:"


def new_figure(rows: int) -> "Figure":
    """A figure of one or more panels above each other, over exits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2 if rows == 1 else 5.6), layout="constrained")
    for axes in figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    axes.set_xlabel("exit (layers run)")
    return figure


def band(axes: "Axes", exits: Ints, e: Estimate, colour: str, name: str, style: str) -> None:
    """Draw an estimate by exit as a line with a band for its interval."""
    axes.plot(exits, e.value, style, color=colour, markersize=3.5, label=name)
    axes.fill_between(exits, e.low, e.high, color=colour, alpha=0.2, linewidth=0)
    by_exit(axes, exits)


def hatch(axes: "Axes", exits: Ints, is_chosen: Bool[np.ndarray, " E"], name: str) -> None:
    """Hatch some exits from top to bottom."""
    for number, exit_layer in enumerate(np.asarray(exits)[is_chosen]):
        axes.axvspan(
            exit_layer - 0.5,
            exit_layer + 0.5,
            facecolor="none",
            edgecolor="0.75",
            hatch="///",
            linewidth=0,
            zorder=0.5,
            label=None if number else name,
        )


def by_exit(axes: "Axes", exits: Ints) -> None:
    """Scale the horizontal axis to exits, with whole numbers."""
    axes.set_xlim(exits[0] - 0.7, exits[-1] + 0.7)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=12))


def save_all(figures: Mapping[str, tuple], folder: str | Path) -> dict[Path, str]:
    """Save figures, given as name -> (figure, caption); return PNG path -> caption."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (figure, _) in figures.items():
        save(figure, folder / name)
    return {folder / f"{name}.png": caption for name, (_, caption) in figures.items()}


def save(figure: "Figure", path: Path) -> None:
    """Save a figure as PNG and SVG; the same tables give the same bytes."""
    for suffix, varying in ((".png", "Software"), (".svg", "Date")):
        with matplotlib.rc_context({"svg.hashsalt": "jaxdepth"}):
            write = partial(figure.savefig, format=suffix[1:], dpi=150, metadata={varying: None})
            write_once(path.with_suffix(suffix), write)
