"""The map of exit depth and prefill length, drawn from its table alone."""

from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.figures import CANNOT, save_all
from jaxdepth.study.prefills.tables import PREFILL_MAP
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.windows import Competence

_MAX_NUMBERS = 250  # cells of a panel that have their share written in them
_PANELS = {
    f"outcome_{Outcome.COMPLY}": ("answered to the point", "Reds"),
    f"outcome_{Outcome.REFUSE}": ("refused in full", "Blues"),
}
_FIRST_TOKEN = {"refusal_log_odds": ("refusal log-odds of the next token (nats)", "Blues")}


def draw_prefills(run_path: str | Path) -> dict[Path, str]:
    """Draw what exits do after each prefill length.

    Args:
        run_path: a finished run of `jaxdepth sweep --prefill-tokens`.

    Returns:
        PNG path -> caption; an SVG lies beside each.
    """
    frame = read_frame(run_path, PREFILL_MAP)
    figures = {}
    for label in sorted(frame["label"].unique()):
        rows = frame[frame["label"] == label]
        figures[f"prefill_map_{label}"] = (
            _draw_map(rows, label),
            f"exit depth and prefill length: what becomes of {label} prompts; hatched: exits that "
            f"{CANNOT}",
        )
    return save_all(figures, Path(run_path) / "figures")


def _draw_map(rows: pd.DataFrame, label: str):
    """One panel a measure: exits across, prefill lengths up."""
    from matplotlib.figure import Figure

    panels = {name: panel for name, panel in _PANELS.items() if (rows["metric"] == name).any()}
    panels = panels or _FIRST_TOKEN
    lengths = sorted(rows["prefill_tokens"].unique())
    height = len(panels) * (1.2 + 0.35 * len(lengths))
    figure = Figure(figsize=(7.2, max(3.2, height)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, (words, colours)) in zip(all_axes, panels.items(), strict=True):
        wide = rows[rows["metric"] == metric].pivot(
            index="prefill_tokens", columns="exit", values="value"
        )
        bounds = {"vmin": 0, "vmax": 1} if metric.startswith("outcome_") else {}
        edges_x, edges_y = np.arange(wide.shape[1] + 1) - 0.5, np.arange(len(wide) + 1) - 0.5
        mesh = axes.pcolormesh(edges_x, edges_y, wide, cmap=colours, linewidth=0, **bounds)
        figure.colorbar(mesh, ax=axes, label=words)
        _write_numbers(axes, wide, mesh)
        _hatch_cells(axes, rows[rows["metric"] == metric], wide)
        axes.set_yticks(np.arange(len(wide)), [str(length) for length in wide.index])
        axes.set_ylabel("prefill (tokens)")
        step = max(1, wide.shape[1] // 12)
        places = np.arange(0, wide.shape[1], step)
        axes.set_xticks(places, [str(e) for e in wide.columns[places]])
    n = int(rows["n"].iloc[0])
    all_axes[0].set_title(f"What exits do after a given start of the reply\n{label} prompts, n={n}")
    all_axes[-1].set_xlabel("exit (layers run)")
    return figure


def _write_numbers(axes, wide: pd.DataFrame, mesh) -> None:
    """Write each value into its cell, where cells are few enough to be read."""
    if wide.size > _MAX_NUMBERS:
        return
    is_share = mesh.get_clim() == (0, 1)
    for (y, x), value in np.ndenumerate(wide.to_numpy(float)):
        is_dark = sum(mesh.to_rgba(value)[:3]) < 1.5
        text = f"{100 * value:.0f}" if is_share else f"{value:.1f}"
        colour = "white" if is_dark else "0.2"
        axes.text(x, y, text, ha="center", va="center", fontsize="xx-small", color=colour)


def _hatch_cells(axes, rows: pd.DataFrame, wide: pd.DataFrame) -> None:
    """Hatch the cells of exits that cannot answer."""
    from matplotlib.patches import Rectangle

    cannot = rows[rows["competent"] == Competence.NO]
    for length, exit_layer in zip(cannot["prefill_tokens"], cannot["exit"], strict=True):
        x, y = wide.columns.get_loc(exit_layer), wide.index.get_loc(length)
        outline = {"facecolor": "none", "edgecolor": "0.6", "hatch": "///", "linewidth": 0}
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **outline))
