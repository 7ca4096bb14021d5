"""Figures of verdicts, each drawn from a run's tables alone, as PNG and SVG."""

from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.refusal.protocol import VERDICTS, Verdict
from jaxdepth.refusal.votes import RULES
from jaxdepth.stats.calibration import bins_for, equal_mass_bins
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.figures import COLOURS, OUTCOMES, STYLES, by_exit, new_figure, save_all
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.verdicts.score_table import ScoreTable
from jaxdepth.study.verdicts.tables import CUTS, VERDICT_TABLE, VOTES

_SHADES = {str(v): OUTCOMES[v] for v in VERDICTS} | {str(Verdict.ABSTAIN): "#eeeeee"}
_LINES = ("#b5312b", "#d98a3d", "#6f9e4c", "#1f6fa8", "#6b4fa0", "#444444")


def draw_verdicts(run_path: str | Path) -> dict[Path, str]:
    """Draw shares of verdicts, thought lengths, votes, calibration, and verdicts along thoughts.

    Returns:
        The PNG files, each with its caption; an SVG lies beside each. None where no exit has a
        verdict, because all activations were NaN or infinite.
    """
    scores = ScoreTable(run_path)
    if not scores.exits:
        return {}
    drawn = {
        "verdicts": (_draw_shares(scores), "verdicts by exit and label"),
        "thought_lengths": (_draw_lengths(scores), "accuracy by exit and length of the thought"),
        "verdict_calibration": (
            _draw_calibration(run_path, scores),
            "calibration of the verdicts' probabilities",
        ),
    }
    if "majority of 1" in scores.sources:
        drawn["votes"] = _draw_votes(run_path, scores), "votes against accuracy and cost"
    if scores.cuts:
        drawn["along_the_thought"] = _draw_along(scores), "P(caution) along the thought, by label"
    return save_all(drawn, Path(run_path) / "figures")


def _draw_shares(scores: ScoreTable):
    labels = [
        label
        for label in COLOURS
        if np.isfinite(scores.estimate("thought", f"refuse_{label}").value).any()
    ]
    figure = new_figure(len(labels))
    for axes, label in zip(figure.axes, labels, strict=True):
        base: float | np.ndarray = 0.0
        for name, colour in _SHADES.items():
            share = scores.estimate("thought", f"{name}_{label}")
            axes.bar(
                scores.exits, share.value, bottom=base, color=colour, label=name.upper(),
                width=0.9, edgecolor="0.6", linewidth=0.4,
            )  # fmt: skip
            base = base + share.value
        axes.set_ylabel(f"share of verdicts on\n{label} prompts (n={share.n})")
        axes.set_ylim(0, 1)
        by_exit(axes, scores.exits)
    figure.axes[0].set_title("Verdicts after the thought, by exit")
    figure.axes[0].legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.07))
    return figure


def _draw_lengths(scores: ScoreTable):
    figure = new_figure(1)
    axes = figure.axes[0]
    names = {f"cut {cut}": f"{cut} tokens" for cut in scores.cuts} | {"thought": "whole thought"}
    first = next(iter(names))
    for n, (source, name) in enumerate(names.items()):
        accuracy = scores.estimate(source, "balanced_accuracy")
        style = "o-" if source == "thought" else ("s--", "^:", "D-.", "o-")[n % 4]
        colour = _LINES[n % len(_LINES)]
        axes.plot(scores.exits, accuracy.value, style, color=colour, markersize=3.5, label=name)
        # Bands of the first and the last only: all of them would hide each other.
        if source in (first, "thought"):
            axes.fill_between(
                scores.exits, accuracy.low, accuracy.high, color=colour, alpha=0.15, linewidth=0
            )
    _mark_chance(axes)
    by_exit(axes, scores.exits)
    axes.set_ylabel("balanced accuracy of verdicts")
    axes.set_title(f"Accuracy by length of the thought (n={accuracy.n}, some 95% bands)")
    axes.legend(frameon=False, title="thought", ncols=2)
    return figure


def _draw_votes(run_path: str | Path, scores: ScoreTable):
    figure = new_figure(1)
    axes = figure.axes[0]
    exit_layer = scores.exits[-1]
    votes = read_frame(run_path, VOTES)
    votes = votes[(votes["exit"] == exit_layer) & (votes["rule"] == "majority")]
    cost = votes.groupby("votes")["tokens"].mean()
    styles = zip(RULES, ("o-", "s--", "^:"), (_LINES[0], _LINES[3], _LINES[2]), strict=True)
    for n, (rule, style, colour) in enumerate(styles):
        accuracy = _at_last_exit(
            [scores.estimate(f"{rule} of {count}", "balanced_accuracy") for count in cost.index]
        )
        axes.errorbar(
            cost * (1 + 0.01 * (n - 1)), accuracy.value,
            yerr=(accuracy.value - accuracy.low, accuracy.high - accuracy.value),
            fmt=style, color=colour, markersize=4, capsize=2, label=rule,
        )  # fmt: skip
    _mark_chance(axes)
    axes.set_xlabel(f"tokens generated per prompt ({cost.index[0]} to {cost.index[-1]} votes)")
    axes.set_ylabel(f"balanced accuracy at exit {exit_layer}")
    axes.set_title("Accuracy by number of votes (95% intervals)")
    axes.legend(frameon=False)
    return figure


def _draw_calibration(run_path: str | Path, scores: ScoreTable):
    figure = new_figure(1)
    axes = figure.axes[0]
    exit_layer = scores.exits[-1]
    verdicts = {"after the thought": read_frame(run_path, VERDICT_TABLE)}
    if "cut 0" in scores.sources:
        cuts = read_frame(run_path, CUTS)
        verdicts["without a thought"] = cuts[cuts["cut"] == 0]
    prompts = read_frame(run_path, PROMPTS)[["prompt_id", "label"]]
    styles = zip(verdicts.items(), _LINES[::3], ("o-", "s--"), strict=False)
    for (name, rows), colour, style in styles:
        rows = rows[(rows["vote"] == 0) & (rows["exit"] == exit_layer)]
        rows = rows.merge(prompts, on="prompt_id")
        p = rows["p_refuse"].astype(float) + rows["p_partial"]
        is_harmful = rows["label"] == "harmful"
        bins = pd.Series(equal_mass_bins(p.to_numpy(), bins_for(len(p))), index=p.index)
        x, y, counts = p.groupby(bins).mean(), is_harmful.groupby(bins).mean(), bins.value_counts()
        axes.plot(x, y, style, color=colour, markersize=4, label=f"{name} (n={len(rows)})")
        for b in x.index:
            axes.annotate(
                str(counts[b]), (x[b], y[b]), textcoords="offset points",
                xytext=(4, 4), fontsize="x-small", color=colour,
            )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("P(refuse) + P(partial); prompts per bin beside the points")
    axes.set_ylabel("share of prompts that are harmful")
    error = scores.estimate("thought", "calibration_error")[-1]
    axes.set_title(
        f"Calibration of verdicts at exit {exit_layer}\n(error after the thought {error:.0%}, bins "
        "of equal mass)"
    )
    axes.legend(frameon=False)
    return figure


def _draw_along(scores: ScoreTable):
    figure = new_figure(1)
    axes = figure.axes[0]
    sources = [*(f"cut {cut}" for cut in scores.cuts), "thought"]
    places = np.arange(len(sources))
    for label, style in STYLES.items():
        p = _at_last_exit([scores.estimate(s, f"p_caution_{label}") for s in sources])
        if np.isfinite(p.value).any():
            name = f"{label} (n={p.n}), 95% band"
            axes.plot(places, p.value, style, color=COLOURS[label], markersize=4, label=name)
            axes.fill_between(places, p.low, p.high, color=COLOURS[label], alpha=0.2, linewidth=0)
    axes.set_xticks(places, [*map(str, scores.cuts), "whole"])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("length of the truncated thought, tokens")
    axes.set_ylabel("mean P(refuse) + P(partial)")
    axes.set_title(f"Verdicts after truncated thoughts, exit {scores.exits[-1]}")
    axes.legend(frameon=False)
    return figure


def _at_last_exit(estimates: list[Estimate]) -> Estimate:
    """Estimates over exits, each at the last one, as one estimate."""
    last = [e[-1] for e in estimates]
    arrays = (np.array([getattr(e, name) for e in last]) for name in ("value", "low", "high"))
    return Estimate(*arrays, n=last[0].n)


def _mark_chance(axes) -> None:
    axes.axhline(0.5, color="0.5", linewidth=0.8, zorder=0)
    axes.set_ylim(-0.02, 1.02)
