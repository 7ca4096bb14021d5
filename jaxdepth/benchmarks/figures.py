"""Figures of `jaxdepth evaluate`: a metric of each task by exit."""

from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.benchmarks.summary import shown_scores
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.figures import band, new_figure, save_all

_COLOURS = ("#1f6fa8", "#b5312b", "#d9a13c", "#5b8c5a", "#7a5c99", "0.4")
_STYLES = ("o-", "s--", "^-.", "d:", "v-", "x--")


def draw_scores(run_path: str | Path) -> dict[Path, str]:
    """Draw every metric of an evaluation by exit, those of one name in one figure.

    Returns:
        PNG path -> caption; an SVG lies beside each.
    """
    scores = shown_scores(run_path)
    figures = {
        _file_name(metric): _draw(metric, of_metric)
        for metric, of_metric in scores.groupby("metric", sort=False)
    }
    return save_all(figures, Path(run_path) / "figures")


def _draw(metric: str, scores: pd.DataFrame) -> tuple:
    figure = new_figure(1)
    (axes,) = figure.axes
    lines = list(scores.groupby(["task", "scorer"], sort=False))
    for n, ((task, scorer), of_line) in enumerate(lines):
        of_line = of_line.sort_values("exit")
        value, low, high = (of_line[name].to_numpy(np.float64) for name in ("value", "low", "high"))
        name = task if len(set(scores["task"])) == len(lines) else f"{task}, {scorer}"
        colour, style = _COLOURS[n % len(_COLOURS)], _STYLES[n // len(_COLOURS) % len(_STYLES)]
        band(axes, of_line["exit"].to_numpy(), Estimate(value, low, high), colour, name, style)
        chance = of_line["chance"].iloc[0]
        if not np.isnan(chance):
            axes.axhline(chance, color=colour, linestyle=":", linewidth=1)
    axes.set_ylabel(metric)
    axes.set_title(f"{metric} by exit")
    axes.legend(frameon=False)
    caption = f"{metric} of each task by exit, with 95% intervals where they are to be had; dotted:"
    return figure, f"{caption} guessing, where its accuracy is known."


def _file_name(metric: str) -> str:
    """A metric's name as a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in metric) or "metric"
