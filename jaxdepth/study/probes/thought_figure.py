"""A figure of probes along thoughts, from the token before a thought to the verdict."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from jaxdepth.study.figures import new_figure
from jaxdepth.study.probes.tables import THOUGHTS
from jaxdepth.study.probes.thoughts import (
    AUROC,
    CLOSED,
    FITTED_AT,
    MEAN,
    OPENED,
    PLACES,
    VERDICT,
    side_of,
)
from jaxdepth.study.run_directory import read_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {OPENED: "#1f6fa8", CLOSED: "#d98a3d"}
_SIDES = {True: ("#b5312b", "o-"), False: ("#6f9e4c", "s--")}


def draw_thoughts(run_path: str | Path) -> "Figure":
    """Two panels a target: AUROC, and the mean scores of both classes."""
    frame = read_frame(run_path, THOUGHTS)
    targets = frame["target"].unique()
    figure = new_figure(2 * len(targets))
    figure.set_size_inches(7.2, 1.2 + 4.0 * len(targets))
    panels = zip(figure.axes[::2], figure.axes[1::2], targets, strict=True)
    for top, bottom, target in panels:
        rows = frame[frame["target"] == target]
        aurocs = rows[rows["metric"] == AUROC]
        for fitted_at in FITTED_AT:
            line = aurocs[aurocs["fitted_at"] == fitted_at]
            if len(line):
                layer = line["layer"].iloc[0]
                label = f"probe fitted where the thought is {fitted_at} (layer {layer})"
                _line(top, line, _COLOURS[fitted_at], label, "o-")
        top.axhline(0.5, color="0.5", linewidth=0.8, zorder=0)
        top.set_ylabel(f"AUROC of\n{target}")
        means = rows[(rows["metric"] == MEAN) & (rows["fitted_at"] == OPENED)]
        for side, (colour, style) in _SIDES.items():
            line = means[means["positive"] == side]
            if len(line):
                label = f"{side_of(target, side)} (n={line['n'].iloc[0]})"
                _line(bottom, line, colour, label, style)
        bottom.set_ylabel("mean decision value\n(probe fitted before the thought)", fontsize=8)
        for axes in (top, bottom):
            axes.legend(frameon=False, fontsize=7)
    names = ["before", *PLACES[1:-2], "closed", VERDICT]
    figure.axes[-1].set_xticks(range(len(PLACES)), names, fontsize=7)
    figure.axes[-1].set_xlabel("along the thought")
    figure.axes[0].set_title("What probes read along a thought, at full depth (95% bands)")
    return figure


def _line(axes, rows: pd.DataFrame, colour: str, label: str, style: str) -> None:
    x = [PLACES.index(place) for place in rows["place"]]
    axes.plot(x, rows["value"], style, color=colour, markersize=3.5, label=label)
    axes.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0)
