"""What is read along thoughts, as a figure: from before the first token to the verdict."""

from pathlib import Path

import numpy as np

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.figures import new_figure
from jaxdepth.study.probes.thoughts import (
    ALONG,
    AUROC,
    CLOSED,
    FITTED_AT,
    MEAN,
    OPENED,
    PLACES,
    VERDICT,
    side_of,
)
from jaxdepth.study.run_directory import read_table

_COLOURS = {OPENED: "#1f6fa8", CLOSED: "#d98a3d"}
_SIDES = {True: ("#b5312b", "o-"), False: ("#6f9e4c", "s--")}


def along_thoughts(run_path: str | Path):
    """Two panels a target: how well it is told, and the mean scores of both classes."""
    rows = read_table(run_path, ALONG).to_pylist()
    targets = list(dict.fromkeys(r["target"] for r in rows))
    figure = new_figure(2 * len(targets))
    figure.set_size_inches(7.2, 1.2 + 4.0 * len(targets))
    panels = list(zip(figure.axes[::2], figure.axes[1::2], strict=True))
    for (top, bottom), target in zip(panels, targets, strict=True):
        mine = [r for r in rows if r["target"] == target]
        for fitted_at in FITTED_AT:
            line = [r for r in mine if (r["fitted_at"], r["metric"]) == (fitted_at, AUROC)]
            if line:
                layer = line[0]["layer"]
                name = f"probe fitted where the thought is {fitted_at} (layer {layer})"
                _line(top, line, _COLOURS[fitted_at], name, "o-")
        top.axhline(0.5, color="0.5", linewidth=0.8, zorder=0)
        top.set_ylabel(f"AUROC of\n{target}")
        for side, (colour, style) in _SIDES.items():
            line = [
                r for r in mine
                if (r["fitted_at"], r["metric"], r["positive"]) == (OPENED, MEAN, side)
            ]  # fmt: skip
            if line:
                name = f"{side_of(target, side)} (n={line[0]['n']})"
                _line(bottom, line, colour, name, style)
        bottom.set_ylabel("mean decision value\n(probe of before the thought)", fontsize=8)
        for axes in (top, bottom):
            axes.legend(frameon=False, fontsize=7)
    names = ["before", *PLACES[1:-2], "closed", VERDICT]
    figure.axes[-1].set_xticks(range(len(PLACES)), names, fontsize=7)
    figure.axes[-1].set_xlabel("along the thought")
    figure.axes[0].set_title("What is read along a thought, at full depth (95% bands)")
    return figure


def _line(axes, rows: list[dict], colour: str, name: str, style: str) -> None:
    x = np.array([PLACES.index(r["place"]) for r in rows])
    found = Estimate(*(np.array([r[k] for r in rows]) for k in ("value", "low", "high")))
    axes.plot(x, found.value, style, color=colour, markersize=3.5, label=name)
    axes.fill_between(x, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
