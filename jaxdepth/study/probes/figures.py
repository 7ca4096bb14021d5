"""Figures of a probe run, each drawn from its tables alone, as PNG and SVG."""

import re
from pathlib import Path

import numpy as np

from jaxdepth.probing.positions import INSTRUCTION, LAST
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.figures import COLOURS, band, by_exit, new_figure, save_all
from jaxdepth.study.probes.ablation import (
    ABLATION,
    CONTENT_AUROC,
    EVERYWHERE,
    LOG_ODDS,
    NOWHERE,
    THERE,
)
from jaxdepth.study.probes.changes import CHANGES, CURVES, REFUSAL
from jaxdepth.study.probes.directions import CATEGORIES
from jaxdepth.study.probes.evaluate import (
    BEHAVIOUR_HARMFUL,
    CONTENT,
    DIFFERENCE,
    LOGISTIC,
    OWN,
    PROBES,
    RANDOM,
    SHUFFLED,
    WORDS,
)
from jaxdepth.study.probes.knows_does import KNOWS_DOES, OTHER, QUADRANTS
from jaxdepth.study.probes.thought_figure import along_thoughts
from jaxdepth.study.probes.thoughts import ALONG
from jaxdepth.study.run_directory import read_table

_LINES = ("#1f6fa8", "#b5312b", "#6f9e4c", "#6b4fa0", "#d98a3d", "#444444", "#2aa198", "#c45a9a")
_QUADRANT = dict(
    zip((*QUADRANTS, OTHER), ("#1f6fa8", "#b5312b", "#7fb2d6", "#d98a3d", "0.6"), strict=True)
)


def draw_probes(run_path: str | Path) -> dict[Path, str]:
    """Draws AUROC by layer and position, change points, cosines, and what is known beside done.

    Returns:
        The PNG files that were written, each with what it shows; an SVG lies beside each.
    """
    run_path = Path(run_path)
    rows = read_table(run_path, PROBES).to_pylist()
    drawn = {}
    for target in dict.fromkeys(r["target"] for r in rows):
        shows = f"how well {target} is read, by layer and position, with controls"
        drawn[f"probes_{target.replace(' ', '_')}"] = _aurocs(rows, target), shows
    changes = _changes(run_path)
    drawn["change_points"] = changes, "where harmfulness and refusal rise"
    if (run_path / f"{CATEGORIES}.parquet").is_file():
        drawn["categories"] = _categories(run_path), "how alike the categories' directions are"
    if (run_path / f"{KNOWS_DOES}.parquet").is_file():
        drawn["knows_does"] = _quadrants(run_path), "what is known beside what is done, by exit"
    if (run_path / f"{ALONG}.parquet").is_file():
        drawn["thoughts"] = along_thoughts(run_path), "what is read along thoughts"
    return save_all(drawn, Path(run_path) / "figures")


def curve_of(rows: list[dict]) -> tuple[np.ndarray, Estimate]:
    """Layers and AUROC with its interval, of rows of one curve."""
    rows = sorted(rows, key=lambda r: r["layer"])
    columns = (np.array([r[name] for r in rows]) for name in ("layer", "auroc", "low", "high"))
    layers, *estimate = columns
    return layers, Estimate(*estimate)


def _aurocs(rows: list[dict], target: str):
    mine = [r for r in rows if r["target"] == target]
    positions = list(dict.fromkeys(r["position"] for r in mine if r["position"]))
    figure = new_figure(len(positions))
    figure.set_size_inches(7.2, 1.6 + 2.3 * len(positions))
    sets = list(dict.fromkeys(r["set"] for r in mine))
    for axes, position in zip(figure.axes, positions, strict=True):
        here = [r for r in mine if r["position"] == position and r["layer"] is not None]
        for colour, name in zip(_LINES, sets, strict=False):
            found = [r for r in here if r["probe"] == LOGISTIC and r["set"] == name]
            label = "own prompts, out of fold" if name == OWN else f"transfer to {name}"
            label += f" (n={found[0]['n']}), 95% band"
            band(axes, *curve_of(found), colour, label, "o-" if name == OWN else "s--")
        for probe, colour, style in (
            (DIFFERENCE, "0.25", ":"), (RANDOM, "0.55", "-."), (SHUFFLED, "0.7", "--"),
        ):  # fmt: skip
            layers, found = curve_of([r for r in here if r["probe"] == probe])
            axes.plot(layers, found.value, style, color=colour, linewidth=1, label=_NAMES[probe])
        for colour, name in zip(_LINES, sets, strict=False):
            words = [r for r in mine if r["probe"] == WORDS and r["set"] == name]
            axes.axhline(
                words[0]["auroc"], color=colour, linewidth=0.8, alpha=0.6, dashes=(6, 3),
                label=f"bag of words, {'own' if name == OWN else name}",
            )  # fmt: skip
        axes.set_ylim(0.3, 1.02)
        axes.set_ylabel(f"AUROC at\n{position}")
    axes.set_xlabel("layer (0 is the embedding)")
    figure.axes[0].set_title(f"How well {target} is read off the residual stream")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


_NAMES = {
    DIFFERENCE: "difference of means",
    RANDOM: "best of 20 random directions",
    SHUFFLED: "shuffled labels",
}


def _changes(run_path: Path):
    told = read_table(run_path, CHANGES).to_pylist()
    # Of many curves those that the question is about: the others are in the table.
    main = re.compile(rf"({CONTENT}|{BEHAVIOUR_HARMFUL}) at ({INSTRUCTION}|{LAST})\b|{REFUSAL}")
    changes = {r["curve"]: r for r in told if r["after"] is None and main.match(r["curve"])}
    rows = read_table(run_path, CURVES).to_pylist()
    figure = new_figure(1)
    figure.set_size_inches(7.2, 4.6 + 0.15 * len(changes))
    axes = figure.axes[0]
    rows = [r for r in rows if r["curve"] in changes]
    bottom = min(r["low"] for r in rows)
    for number, (name, found) in enumerate(changes.items()):
        colour = _LINES[number % len(_LINES)]
        layers, estimate = curve_of([r for r in rows if r["curve"] == name])
        at = f"{found['layer']} [{found['low']}, {found['high']}]"
        says = "no rise" if found["kind"] == "none" else f"{found['kind']} at {at}"
        band(axes, layers, estimate, colour, f"{name}: {says}", "o-")
        if found["kind"] != "none":  # below the curves, the layer with its interval
            height = bottom - 0.03 * (number + 1)
            axes.plot([found["low"], found["high"]], [height, height], color=colour)
            axes.plot(found["layer"], height, "|", color=colour, markersize=9)
    by_exit(axes, sorted({r["layer"] for r in rows}))
    axes.set_ylabel("AUROC")
    axes.set_xlabel("layer, or exit (below the curves: where each rises, 95%)")
    axes.set_title("Where harmfulness becomes readable, and where refusal follows")
    figure.legend(loc="outside lower center", frameon=False, fontsize=7)
    return figure


def _categories(run_path: Path):
    rows = read_table(run_path, CATEGORIES).to_pylist()
    names = list(dict.fromkeys(r["category"] for r in rows))
    place = {name: k for k, name in enumerate(names)}
    cosine_KK = np.full((len(names), len(names)), np.nan)
    for row in rows:
        cosine_KK[place[row["category"]], place[row["other"]]] = row["cosine"]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(cosine_KK, vmin=-1, vmax=1, cmap="RdBu_r")
    for a, b in np.ndindex(cosine_KK.shape):
        dark = abs(cosine_KK[a, b]) > 0.6
        axes.text(
            b,
            a,
            f"{cosine_KK[a, b]:.2f}",
            ha="center",
            va="center",
            fontsize=6,
            color="w" if dark else "k",
        )
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(
        f"Cosines of the categories' directions\n({rows[0]['position']}, layer {rows[0]['layer']})"
    )
    figure.colorbar(drawn, shrink=0.8)
    return figure


def _quadrants(run_path: Path):
    rows = read_table(run_path, KNOWS_DOES).to_pylist()
    positions = list(dict.fromkeys(r["position"] for r in rows))
    position = "last" if "last" in positions else positions[0]
    figure = new_figure(2)
    for axes, label in zip(figure.axes, COLOURS, strict=True):
        for name, colour in _QUADRANT.items():
            mine = [
                r for r in rows
                if (r["position"], r["label"], r["quadrant"]) == (position, label, name)
            ]  # fmt: skip
            exits = np.array([r["exit"] for r in mine])
            found = Estimate(*(np.array([r[c] for r in mine]) for c in ("value", "low", "high")))
            band(axes, exits, found, colour, name, "o-" if name != OTHER else "--")
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel(f"share of {label}\nprompts (n={mine[0]['n']})")
    figure.axes[0].set_title(f"What is known ({position} token) beside what is done")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def draw_ablation(run_path: str | Path) -> dict[Path, str]:
    """Draws what taking out each layer's direction does to refusal and to readable harmfulness.

    Returns:
        The PNG file that was written, with what it shows; an SVG lies beside it.
    """
    rows = read_table(run_path, ABLATION).to_pylist()
    figure = new_figure(3)
    figure.set_size_inches(7.2, 7.2)
    panels = ((LOG_ODDS, "harmful"), (LOG_ODDS, "harmless"), (CONTENT_AUROC, None))
    for axes, (metric, label) in zip(figure.axes, panels, strict=True):
        mine = [r for r in rows if (r["metric"], r["label"]) == (metric, label)]
        (before,) = (r for r in mine if r["ablated"] == NOWHERE)
        axes.axhline(before["value"], color="0.5", linewidth=0.8, label="nothing ablated")
        axes.axhspan(before["low"], before["high"], color="0.5", alpha=0.1, linewidth=0)
        for ablated, colour, style in ((THERE, _LINES[0], "o-"), (EVERYWHERE, _LINES[1], "s--")):
            line = [r for r in mine if r["ablated"] == ablated]
            found = Estimate(*(np.array([r[k] for r in line]) for k in ("value", "low", "high")))
            name = f"ablated {ablated}, 95% band"
            band(axes, np.array([r["layer"] for r in line]), found, colour, name, style)
        what = f"{metric}, {label}" if label else metric
        axes.set_ylabel(f"{what}\n(n={before['n']})", fontsize=8)
    axes.set_xlabel("layer that the direction is of")
    figure.axes[0].set_title("What taking a direction out does to full depth")
    figure.axes[0].legend(frameon=False, fontsize=7)
    shows = "what taking out each layer's direction does"
    return save_all({"ablation": (figure, shows)}, Path(run_path) / "figures")
