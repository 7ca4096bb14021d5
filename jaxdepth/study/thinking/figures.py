"""The figure of the comparison, drawn from its tables alone."""

from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.study.figures import by_exit, save_all
from jaxdepth.study.thinking.arms import ARMS, PROBE
from jaxdepth.study.thinking.compared import ALL, LOOKALIKES, VERDICT
from jaxdepth.study.thinking.rows import BALANCED, OVER_REFUSAL, RECALL

# A colour, marker and line style for each arm, distinct in black and white too.
_STYLES = dict(
    zip(
        (*ARMS, PROBE),
        (
            ("#e08a1e", "s--"), ("#1f6fa8", "o-"), ("#7b5ea7", "P:"), ("#8c564b", "X:"),
            ("0.45", "v:"), ("#b5312b", "D-."), ("#111111", "*:"),
        ),
        strict=True,
    )
)  # fmt: skip
_PANELS = (
    (BALANCED, ALL, "balanced accuracy, all prompts"),
    (RECALL, ALL, "recall where 1% of harmless\nprompts are flagged"),
    (OVER_REFUSAL, LOOKALIKES, "look-alikes refused in whole or in part"),
)


def draw_arms(metrics: pd.DataFrame, contrasts: pd.DataFrame, folder: Path) -> dict[Path, str]:
    """Draw three metrics by exit, a line for each arm, and the gains at full depth.

    Args:
        metrics: the arm_metrics table.
        contrasts: the arm_contrasts table.
        folder: where the PNG and SVG files go.

    Returns:
        The PNG file, with its caption.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 7.2), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    for axes, (metric, group, title) in zip(panels, _PANELS, strict=False):
        rows = metrics[
            (metrics["metric"] == metric)
            & (metrics["group"] == group)
            & (metrics["source"] == VERDICT)
        ]
        arms = [arm for arm in _STYLES if arm in set(rows["arm"])]
        for number, arm in enumerate(arms):
            colour, style = _STYLES[arm]
            own = rows[rows["arm"] == arm].sort_values("exit")
            # Side by side, so that intervals do not hide each other.
            x = own["exit"] + 0.09 * (number - (len(arms) - 1) / 2)
            value, low, high = (own[n].astype(float) for n in ("value", "low", "high"))
            axes.plot(x, value, style, color=colour, markersize=4, linewidth=1, label=arm)
            axes.vlines(x, low, high, color=colour, alpha=0.5, linewidth=1)
        if len(rows):
            by_exit(axes, sorted(set(rows["exit"])))
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel(title)
        axes.set_xlabel("exit (layers run)")
    _draw_gains(panels[3], contrasts)
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, ncols=7, loc="outside upper center"
    )
    caption = "accuracy, recall and over-refusal of arms by exit, and differences between arms"
    return save_all({"arms": (figure, caption)}, folder)


def _draw_gains(axes, contrasts: pd.DataFrame) -> None:
    """Differences of balanced accuracy at full depth, with their intervals."""
    rows = contrasts[(contrasts["metric"] == BALANCED) & (contrasts["group"] == ALL)]
    rows = rows[rows["exit"] == rows["exit"].max()]
    names = [
        f"{row.arm} - {row.against}"
        + ("" if row.against_source == VERDICT else f", {row.against_source}")
        for row in rows.itertuples()
    ]
    places = np.arange(len(rows))[::-1]
    value, low, high = (100 * rows[n].astype(float) for n in ("value", "low", "high"))
    axes.hlines(places, low, high, color="#1f6fa8")
    axes.plot(value, places, "o", color="#1f6fa8", markersize=4)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(places, names, fontsize="small")
    axes.set_xlabel("balanced accuracy at the deepest exit,\ndifference in points (95%)")
