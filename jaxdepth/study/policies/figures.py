"""Figures of exit policies, each drawn from a run's tables alone, as PNG and SVG."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from jaxdepth.depth.policies import Policy
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.figures import new_figure, save_all
from jaxdepth.study.policies.rates import MEAN_LAYERS, POLICIES
from jaxdepth.study.policies.run import DYNAMIC, TOKENS
from jaxdepth.study.run_directory import read_table

_STYLES = {
    Policy.FIXED: ("0.2", "o-"),
    Policy.MARGIN: ("#b5312b", "s--"),
    Policy.TOP1: ("#d98a3d", "^--"),
    Policy.SATURATION: ("#6f9e4c", "D-."),
    Policy.PATIENCE: ("#1f6fa8", "v:"),
    Policy.CLASSIFIER: ("#6b4fa0", "P-."),
    Policy.ORACLE: ("#2aa198", "*"),
}
_PANELS = (
    ("harmful", Outcome.REFUSE, "refused"),
    ("harmful", Outcome.COMPLY, "answered coherently"),
    ("harmful", Outcome.DEGENERATE, "gibberish"),
    ("harmless", Outcome.COMPLY, "answered coherently"),
)
_KINDS = {
    "harmful, refused": ("harmful", Outcome.REFUSE),
    "harmful, answered": ("harmful", Outcome.COMPLY),
    "harmless, answered": ("harmless", Outcome.COMPLY),
}


def draw_policies(run_path: str | Path, only: Collection[str] | None = None) -> dict[Path, str]:
    """Draws outcomes against mean depth, and where in answers tokens exit, by policy.

    Args:
        run_path: a run whose rates are written.
        only: the ids of the prompts whose tokens are shown, by default all: a run may hold others
            than those that its rates are of.

    Returns:
        The PNG files that were written, each with what it shows; an SVG lies beside each.
    """
    drawn = {"policies": (_frontier(run_path), "outcomes against mean depth, policy by policy")}
    rule = main_rule(run_path)
    if rule is not None:
        drawn["exit_map"] = _map(run_path, rule, only), f"where in answers tokens exit ({rule})"
    return save_all(drawn, Path(run_path) / "figures")


def main_rule(run_path: str | Path) -> str | None:
    """The rule whose exits are mapped: not fixed, its depth nearest to three quarters of all."""
    rows = [r for r in read_table(run_path, POLICIES).to_pylist() if r["metric"] == MEAN_LAYERS]
    deepest = max(r["threshold"] for r in rows if r["policy"] == Policy.FIXED)
    own = [r for r in rows if r["policy"] not in (Policy.FIXED, Policy.ORACLE)]
    return min(own, key=lambda r: abs(r["value"] - 0.75 * deepest))["rule"] if own else None


def _frontier(run_path):
    from matplotlib.figure import Figure

    rows = read_table(run_path, POLICIES).to_pylist()
    depth = {(r["rule"], r["label"]): r["value"] for r in rows if r["metric"] == MEAN_LAYERS}
    labels = {r["label"] for r in rows}
    panels = [panel for panel in _PANELS if panel[0] in labels]
    figure = Figure(figsize=(10.4, 6.6), layout="constrained")
    for axes, (label, outcome, title) in zip(
        figure.subplots(2, 2, sharex=True, sharey=True).ravel(), panels, strict=False
    ):
        mine = [r for r in rows if (r["label"], r["metric"]) == (label, outcome)]
        for policy, (colour, style) in _STYLES.items():
            line = [(depth[r["rule"], label], r) for r in mine if r["policy"] == policy]
            line.sort(key=lambda at: at[0])
            if line:
                x, value, low, high = (
                    np.array(column)
                    for column in zip(
                        *((d, r["value"], r["low"], r["high"]) for d, r in line), strict=True
                    )
                )
                axes.plot(x, value, style, color=colour, markersize=4, label=str(policy))
                axes.vlines(x, low, high, color=colour, alpha=0.35, linewidth=1)
        axes.set_title(f"{label.capitalize()}, {title} (n={mine[0]['n']})", fontsize="medium")
        axes.set_ylim(-0.02, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
    figure.supxlabel("mean layers computed per token (bars: 95%)", fontsize="medium")
    figure.supylabel("share of answers", fontsize="medium")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _map(run_path, rule: str, only: Collection[str] | None):
    """Exits by place in the answer, for refusals and for answers; confidence on top of it."""
    did = {
        (r["prompt_id"], r["sample"]): r["outcome"]
        for r in read_table(run_path, DYNAMIC).to_pylist()
        if r["rule"] == rule
    }
    label_of = {p["prompt_id"]: p["label"] for p in read_table(run_path, "prompts").to_pylist()}
    shown = set(label_of if only is None else only)
    tokens = [
        r for r in read_table(run_path, TOKENS).to_pylist()
        if r["rule"] == rule and r["prompt_id"] in shown
    ]  # fmt: skip
    exits = sorted({r["exit"] for r in tokens})
    places = 1 + max(r["place"] for r in tokens)
    figure = new_figure(len(_KINDS) + 1)
    figure.set_size_inches(7.2, 8.4)
    styles = zip(("o-", "s--", "^:"), ("#1f6fa8", "#b5312b", "#6f9e4c"), strict=True)
    for axes, (kind, (label, outcome)), (style, colour) in zip(
        figure.axes, _KINDS.items(), styles, strict=False
    ):
        mine = [
            r for r in tokens
            if label_of[r["prompt_id"]] == label and did[r["prompt_id"], r["sample"]] == outcome
        ]  # fmt: skip
        count_EP = np.zeros((len(exits), places))
        sure_P = np.full(places, np.nan)
        for row in mine:
            count_EP[exits.index(row["exit"]), row["place"]] += 1
        for place in range(places):
            here = [r["confidence"] for r in mine if r["place"] == place]
            sure_P[place] = np.mean(here) if here else np.nan
        total_P = count_EP.sum(axis=0)
        share_EP = np.divide(count_EP, total_P, out=np.zeros_like(count_EP), where=total_P > 0)
        axes.grid(visible=False)
        axes.imshow(share_EP, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axes.set_yticks(range(len(exits)), exits, fontsize=6)
        n = len({(r["prompt_id"], r["sample"]) for r in mine})
        axes.set_ylabel(f"exit\n{kind}\n(n={n})", fontsize=8)
        figure.axes[-1].plot(
            range(places), sure_P, style, color=colour, markersize=3.5, label=f"{kind} (n={n})"
        )
    last = figure.axes[-1]
    last.set_ylim(0, 1.02)
    last.set_ylabel("mean probability of\nthe top token", fontsize=8)
    last.legend(frameon=False, fontsize=7)
    last.set_xlabel("place in the answer, tokens")
    figure.axes[0].set_title(f"Where tokens exit under {rule} (shade: share of the place's tokens)")
    return figure
