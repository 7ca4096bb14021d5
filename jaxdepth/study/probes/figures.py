"""Figures of a probe run and of an ablation, each drawn from its tables alone, as PNG and SVG."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.probing.positions import INSTRUCTION, LAST
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.figures import COLOURS, band, by_exit, new_figure, save_all
from jaxdepth.study.probes.ablation import (
    ALL_LAYERS,
    CONTENT_AUROC,
    LOG_ODDS,
    NOWHERE,
    ONE_LAYER,
    TO_MEAN,
)
from jaxdepth.study.probes.changes import REFUSAL
from jaxdepth.study.probes.evaluate import (
    BEHAVIOUR_HARMFUL,
    CONTENT,
    DIFFERENCE,
    LOGISTIC,
    OWN,
    RANDOM,
    SHUFFLED,
    WORDS,
    auroc_estimate,
)
from jaxdepth.study.probes.knows_does import OTHER, QUADRANTS
from jaxdepth.study.probes.summary import layers_of
from jaxdepth.study.probes.tables import (
    ABLATION,
    CATEGORIES,
    CHANGE_POINTS,
    CURVES,
    KNOWS_DOES,
    PROBES,
    THOUGHTS,
)
from jaxdepth.study.probes.thought_figure import draw_thoughts
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.windows import Competence, competence_of

_LINES = ("#1f6fa8", "#b5312b", "#6f9e4c", "#6b4fa0", "#d98a3d", "#444444", "#2aa198", "#c45a9a")
_QUADRANT = dict(
    zip((*QUADRANTS, OTHER), ("#1f6fa8", "#b5312b", "#7fb2d6", "#d98a3d", "0.6"), strict=True)
)
_CONTROLS = {
    DIFFERENCE: ("difference of means", "0.25", ":"),
    RANDOM: ("best of 20 random directions", "0.55", "-."),
    SHUFFLED: ("shuffled labels", "0.7", "--"),
}


def draw_probes(run_path: str | Path) -> dict[Path, str]:
    """Draw AUROC by layer, change points, cosines, and readable harm against behaviour.

    Returns:
        The PNG files that were written, each with its caption; an SVG lies beside each.
    """
    run_path = Path(run_path)
    figures = {}
    for target, frame in read_frame(run_path, PROBES).groupby("target", sort=False):
        caption = f"how well {target} is read, by layer and position, with controls"
        figures[f"probes_{target.replace(' ', '_')}"] = _aurocs(frame, target), caption
    figures[CHANGE_POINTS.name] = _changes(run_path), "where harmfulness and refusal rise"
    optional = {
        CATEGORIES.name: (_categories, "how similar the categories' directions are"),
        KNOWS_DOES.name: (_quadrants, "what the probe reads, against what the model does, by exit"),
        THOUGHTS.name: (draw_thoughts, "what probes read along thoughts"),
    }
    for name, (draw, caption) in optional.items():
        if (run_path / f"{name}.parquet").is_file():
            figures[name] = draw(run_path), caption
    return save_all(figures, run_path / "figures")


def _aurocs(frame: pd.DataFrame, target: str):
    positions, sets = frame["position"].dropna().unique(), frame["set"].unique()
    words = frame[frame["probe"] == WORDS].set_index("set")["auroc"]
    figure = new_figure(len(positions))
    figure.set_size_inches(7.2, 1.6 + 2.3 * len(positions))
    for axes, position in zip(figure.axes, positions, strict=True):
        by_layer = frame[(frame["position"] == position) & frame["layer"].notna()]
        logistic = by_layer[by_layer["probe"] == LOGISTIC]
        for colour, name in zip(_LINES, sets, strict=False):
            rows = logistic[logistic["set"] == name].sort_values("layer")
            label = "own prompts, out of fold" if name == OWN else f"transfer to {name}"
            label += f" (n={rows['n'].iloc[0]}), 95% band"
            style = "o-" if name == OWN else "s--"
            band(axes, rows["layer"].to_numpy(), auroc_estimate(rows), colour, label, style)
        for probe, (label, colour, style) in _CONTROLS.items():
            rows = by_layer[by_layer["probe"] == probe].sort_values("layer")
            axes.plot(rows["layer"], rows["auroc"], style, color=colour, linewidth=1, label=label)
        for colour, name in zip(_LINES, sets, strict=False):
            axes.axhline(
                words[name], color=colour, linewidth=0.8, alpha=0.6, dashes=(6, 3),
                label=f"bag of words, {'own' if name == OWN else name}",
            )  # fmt: skip
        axes.set_ylim(0.3, 1.02)
        axes.set_ylabel(f"AUROC at\n{position}")
    axes.set_xlabel("layer (0 is the embedding)")
    figure.axes[0].set_title(f"How well linear probes read {target}, by layer")
    _legend_below(figure, ncols=2)
    return figure


def _changes(run_path: Path):
    # Of many curves those that answer the question: the others are in the table.
    main = rf"(?:{CONTENT}|{BEHAVIOUR_HARMFUL}) at (?:{INSTRUCTION}|{LAST})\b|{re.escape(REFUSAL)}"
    frame = read_frame(run_path, CURVES).sort_values("layer", kind="stable")
    frame = frame[frame["curve"].str.match(main)]
    changes = read_frame(run_path, CHANGE_POINTS)
    changes = changes[changes["after"].isna()].set_index("curve")
    curves = frame["curve"].unique()
    figure = new_figure(1)
    figure.set_size_inches(7.2, 4.6 + 0.15 * len(curves))
    (axes,) = figure.axes
    for number, curve in enumerate(curves):
        colour, label = _LINES[number % len(_LINES)], f"{curve}: too few pairs to say"
        if curve in changes.index:
            change = changes.loc[curve]
            label = f"{curve}: no rise"
            if change["kind"] != "none":
                onset, midpoint = (layers_of(change, name) for name in ("onset", "midpoint"))
                label = f"{curve}: {change['kind']}, onset {onset:.0f}, midpoint {midpoint:.0f}"
                # Below the curves, both layers with their intervals.
                for row, (layer, mark) in enumerate(((onset, ">"), (midpoint, "|"))):
                    height = frame["auroc"].min() - 0.06 - 0.03 * (2 * number + row)
                    axes.plot([layer.low, layer.high], [height, height], color=colour)
                    axes.plot(layer.value, height, mark, color=colour, markersize=7)
        rows = frame[frame["curve"] == curve]
        band(axes, rows["layer"].to_numpy(), auroc_estimate(rows), colour, label, "o-")
    by_exit(axes, sorted(set(frame["layer"])))
    axes.set_ylabel("AUROC")
    axes.set_xlabel("layer, or exit (below the curves, 95%: > onset, | midpoint of each rise)")
    axes.set_title("Where harmfulness becomes readable, and where refusal follows")
    figure.legend(loc="outside lower center", frameon=False, fontsize=7)
    return figure


def _categories(run_path: Path):
    frame = read_frame(run_path, CATEGORIES)
    names = frame["category"].unique()
    cosine_KK = frame.pivot(index="category", columns="other", values="cosine")
    cosine_KK = cosine_KK.loc[names, names].to_numpy()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cosine_KK, vmin=-1, vmax=1, cmap="RdBu_r")
    for (a, b), cosine in np.ndenumerate(cosine_KK):
        colour = "w" if abs(cosine) > 0.6 else "k"  # readable on dark and on light cells
        axes.text(b, a, f"{cosine:.2f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    position, layer = frame["position"].iloc[0], frame["layer"].iloc[0]
    axes.set_title(f"Cosines of the categories' directions\n({position}, layer {layer})")
    figure.colorbar(image, shrink=0.8)
    return figure


def _quadrants(run_path: Path):
    frame = read_frame(run_path, KNOWS_DOES)
    positions = frame["position"].unique()
    position = LAST if LAST in positions else positions[0]
    frame = frame[frame["position"] == position]
    figure = new_figure(2)
    for axes, label in zip(figure.axes, COLOURS, strict=True):
        for name, colour in _QUADRANT.items():
            rows = frame[(frame["label"] == label) & (frame["quadrant"] == name)]
            _band(axes, rows, "exit", colour, name, "o-" if name != OTHER else "--")
            cannot = rows[competence_of(rows) != Competence.YES]
            axes.plot(cannot["exit"], cannot["value"], "o", color=colour, markerfacecolor="white")
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel(f"share of {label}\nprompts (n={rows['n'].iloc[0]})")
    figure.axes[0].set_title(
        f"What a probe at the {position} token knows, and what the model does\n(hollow: exits that "
        "are not shown to be able to answer harmless prompts)"
    )
    _legend_below(figure, ncols=3)
    return figure


def draw_ablation(run_path: str | Path) -> dict[Path, str]:
    """Draw the effect of ablating each layer's direction on refusal and readable harmfulness.

    Returns:
        The PNG file that was written, with its caption; an SVG lies beside it.
    """
    frame = read_frame(run_path, ABLATION)
    figure = new_figure(3)
    figure.set_size_inches(7.2, 7.2)
    panels = ((LOG_ODDS, "harmful"), (LOG_ODDS, "harmless"), (CONTENT_AUROC, None))
    for axes, (metric, label) in zip(figure.axes, panels, strict=True):
        rows = frame[frame["metric"] == metric]
        rows = (rows if label is None else rows[rows["label"] == label]).set_index("ablated")
        before = rows.loc[NOWHERE]
        axes.axhline(before["value"], color="0.5", linewidth=0.8, label="nothing ablated")
        axes.axhspan(before["low"], before["high"], color="0.5", alpha=0.1, linewidth=0)
        for ablated, colour, style in (
            (ONE_LAYER, _LINES[0], "o-"),
            (ALL_LAYERS, _LINES[1], "s--"),
            (TO_MEAN, _LINES[2], "^:"),
        ):
            name = f"{'set' if ablated == TO_MEAN else 'ablated'} {ablated}, 95% band"
            _band(axes, rows.loc[[ablated]], "layer", colour, name, style)
        metric = f"{metric}, {label}" if label else metric
        axes.set_ylabel(f"{metric}\n(n={before['n']})", fontsize=8)
    axes.set_xlabel("layer of the direction")
    figure.axes[0].set_title("The effect of ablating a direction, at full depth")
    figure.axes[0].legend(frameon=False, fontsize=7)
    caption = "the effect of ablating each layer's direction"
    return save_all({"ablation": (figure, caption)}, Path(run_path) / "figures")


def _band(axes, rows: pd.DataFrame, x: str, colour: str, label: str, style: str) -> None:
    """The rows' value with its interval, over column x."""
    band(axes, rows[x].to_numpy(), Estimate.from_row(rows), colour, label, style)


def _legend_below(figure, ncols: int) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=ncols, frameon=False, fontsize=7
    )
