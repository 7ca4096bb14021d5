"""Figures of exit policies, each drawn from a run's tables alone, as PNG and SVG."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.depth.policies import Policy
from jaxdepth.prompts.prompt import UNLABELLED
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.figures import new_figure, save_all
from jaxdepth.study.policies.rates import MEAN_LAYERS
from jaxdepth.study.policies.tables import DYNAMIC, POLICIES, TOKENS
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.windows import Competence, competence_of

_STYLES = {
    Policy.FIXED: ("0.2", "o-"),
    Policy.MARGIN: ("#b5312b", "s--"),
    Policy.TOP1: ("#d98a3d", "^--"),
    Policy.SATURATION: ("#6f9e4c", "D-."),
    Policy.PATIENCE: ("#1f6fa8", "v:"),
    Policy.CLASSIFIER: ("#6b4fa0", "P-."),
    Policy.GUARDED: ("#8a5a2b", "X"),
    Policy.ORACLE: ("#2aa198", "*"),
}
_PANELS = (
    ("harmful", Outcome.REFUSE, "refused"),
    ("harmful", Outcome.COMPLY, "answered to the point"),
    ("harmful", Outcome.OFF_TOPIC, "answered off the topic"),
    ("harmful", Outcome.DEGENERATE, "degenerate"),
    ("harmless", Outcome.COMPLY, "answered to the point"),
    ("harmless", Outcome.OFF_TOPIC, "answered off the topic"),
    (UNLABELLED, Outcome.REFUSE, "refused"),
    (UNLABELLED, Outcome.COMPLY, "answered to the point"),
    (UNLABELLED, Outcome.OFF_TOPIC, "answered off the topic"),
    (UNLABELLED, Outcome.DEGENERATE, "degenerate"),
)
_MAPS = (  # label, outcome, their name, and the style of their line
    ("harmful", Outcome.REFUSE, "harmful, refused", "#1f6fa8", "o-"),
    ("harmful", Outcome.COMPLY, "harmful, answered to the point", "#b5312b", "s--"),
    ("harmless", Outcome.COMPLY, "harmless, answered to the point", "#6f9e4c", "^:"),
)
_UNLABELLED_MAPS = (  # where no prompt has a label
    (UNLABELLED, Outcome.REFUSE, "refused", "#1f6fa8", "o-"),
    (UNLABELLED, Outcome.COMPLY, "answered to the point", "#b5312b", "s--"),
)


def draw_policies(run_path: str | Path, only: Collection[str] | None = None) -> dict[Path, str]:
    """Draw outcomes against mean depth, and exits along answers, by policy.

    Args:
        run_path: a run whose rates are written.
        only: the ids of the prompts whose tokens are drawn, by default all; give those that the
            rates are of where these cover only some prompts.

    Returns:
        The PNG files, each with its caption; an SVG lies beside each.
    """
    drawn = {"policies": (_draw_frontier(run_path), "outcomes against mean depth, by policy")}
    rule = main_rule(run_path)
    if rule is not None:
        figure = _draw_exit_map(run_path, rule, only)
        drawn["exit_map"] = figure, f"exits by position in the answer ({rule})"
    return save_all(drawn, Path(run_path) / "figures")


def main_rule(run_path: str | Path) -> str | None:
    """The rule whose exits are mapped: not fixed, its depth nearest to three quarters of all."""
    rates = read_frame(run_path, POLICIES)
    depths = rates[rates["metric"] == MEAN_LAYERS]
    is_fixed = depths["policy"] == Policy.FIXED
    deepest = depths.loc[is_fixed, "threshold"].max()
    depths = depths[~is_fixed & (depths["policy"] != Policy.ORACLE)]
    if depths.empty:
        return None
    return depths.loc[(depths["value"] - 0.75 * deepest).abs().idxmin(), "rule"]


def _draw_frontier(run_path: str | Path):
    from matplotlib.figure import Figure

    rates = read_frame(run_path, POLICIES)
    depths = rates[rates["metric"] == MEAN_LAYERS].set_index(["label", "rule"])["value"]
    rates = rates.join(depths.rename("depth"), on=["label", "rule"])
    rates = rates.sort_values("depth", kind="stable")
    labels = set(rates["label"])
    panels = [panel for panel in _PANELS if panel[0] in labels]
    figure = Figure(figsize=(10.4, 9.4), layout="constrained")
    for axes, (label, outcome, title) in zip(
        figure.subplots(3, 2, sharex=True, sharey=True).ravel(), panels, strict=False
    ):
        shares = rates[(rates["label"] == label) & (rates["metric"] == outcome)]
        for policy, (colour, style) in _STYLES.items():
            line = shares[shares["policy"] == policy]
            if not line.empty:
                depth, share = line["depth"], Estimate.from_row(line)
                axes.plot(depth, share.value, style, color=colour, markersize=4, label=str(policy))
                cannot = (competence_of(line) != Competence.YES).to_numpy()
                axes.plot(
                    depth[cannot], share.value[cannot], style[0], color=colour, markersize=4,
                    markerfacecolor="white",
                )  # fmt: skip
                axes.vlines(depth, share.low, share.high, color=colour, alpha=0.35, linewidth=1)
        axes.set_title(f"{label.capitalize()}, {title} (n={shares['n'].max()})", fontsize="medium")
        axes.set_ylim(-0.02, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
    figure.supxlabel(
        "mean layers computed per token (bars: 95%; hollow: rules that are not shown to be able to "
        "answer harmless prompts)",
        fontsize="medium",
    )
    figure.supylabel("share of answers", fontsize="medium")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _draw_exit_map(run_path: str | Path, rule: str, only: Collection[str] | None):
    """Exits by position in the answer, for refusals and for answers; confidence below."""
    tokens = _labelled_tokens(run_path, rule, only)
    exits, places = np.unique(tokens["exit"]), range(1 + tokens["place"].max())
    chosen = _UNLABELLED_MAPS if (tokens["label"] == UNLABELLED).all() else _MAPS
    figure = new_figure(len(chosen) + 1)
    figure.set_size_inches(7.2, 8.4)
    *maps, last = figure.axes
    for axes, (label, outcome, name, colour, style) in zip(maps, chosen, strict=True):
        group = tokens[(tokens["label"] == label) & (tokens["outcome"] == outcome)]
        n = len(group[["prompt_id", "sample"]].drop_duplicates())
        counts = pd.crosstab(group["exit"], group["place"])
        counts = counts.reindex(index=exits, columns=places, fill_value=0)
        shares = (counts / counts.sum()).fillna(0)
        axes.grid(visible=False)
        axes.imshow(shares, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axes.set_yticks(range(len(exits)), exits, fontsize=6)
        axes.set_ylabel(f"exit\n{name}\n(n={n})", fontsize=8)
        confidence = group.groupby("place")["confidence"].mean().reindex(places)
        last.plot(places, confidence, style, color=colour, markersize=3.5, label=f"{name} (n={n})")
    last.set_ylim(0, 1.02)
    last.set_ylabel("mean probability of\nthe top token", fontsize=8)
    last.legend(frameon=False, fontsize=7)
    last.set_xlabel("position in the answer, tokens")
    maps[0].set_title(f"Exits under {rule} (shade: share of the tokens at that position)")
    return figure


def _labelled_tokens(run_path: str | Path, rule: str, only: Collection[str] | None) -> pd.DataFrame:
    """The tokens of a rule's answers, with the answer's outcome and the prompt's label."""
    keys = ["prompt_id", "rule", "sample"]
    answers = read_frame(run_path, DYNAMIC)[[*keys, "outcome"]]
    prompts = read_frame(run_path, PROMPTS)[["prompt_id", "label"]]
    if only is not None:
        prompts = prompts[prompts["prompt_id"].isin(only)]
    tokens = read_frame(run_path, TOKENS)
    return tokens[tokens["rule"] == rule].merge(answers, on=keys).merge(prompts, on="prompt_id")
