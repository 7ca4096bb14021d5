"""Figures of verdicts, each drawn from a run's tables alone, as PNG and SVG."""

from pathlib import Path

import numpy as np

from jaxdepth.refusal.protocol import VERDICTS, Verdict
from jaxdepth.study.figures import COLOURS, OUTCOMES, by_exit, new_figure, save_all
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.verdicts.run import CUTS, VERDICT_TABLE
from jaxdepth.study.verdicts.scores import VOTES, Scores

_SHADES = {str(v): OUTCOMES[v] for v in VERDICTS} | {str(Verdict.ABSTAIN): "#eeeeee"}
_LINES = ("#b5312b", "#d98a3d", "#6f9e4c", "#1f6fa8", "#6b4fa0", "#444444")
_BINS = 10


def draw_verdicts(run_path: str | Path) -> dict[Path, str]:
    """Draws verdict shares, thought lengths, votes, calibration, and verdicts along the thought.

    Returns:
        The PNG files that were written, each with what it shows; an SVG lies beside each.
    """
    scores = Scores(run_path)
    drawn = {
        "verdicts": (_shares(scores), "what each exit decides, by label"),
        "thought_lengths": (_lengths(scores), "accuracy by exit and length of the thought"),
        "verdict_calibration": (_calibration(run_path, scores), "how honest probabilities are"),
    }
    if any(source.startswith("majority of ") for source in scores.sources):
        drawn["votes"] = (_votes(run_path, scores), "votes against accuracy and cost")
    if any(source.startswith("cut ") for source in scores.sources):
        drawn["along_the_thought"] = (_along(scores), "caution along the thought, by label")
    return save_all(drawn, Path(run_path) / "figures")


def _shares(scores: Scores):
    labels = [
        label
        for label in COLOURS
        if np.isfinite(scores.of("thought", f"refuse_{label}").value).any()
    ]
    figure = new_figure(len(labels))
    for axes, label in zip(figure.axes, labels, strict=True):
        base = 0.0
        for name, colour in _SHADES.items():
            share = scores.of("thought", f"{name}_{label}")
            axes.bar(
                scores.exits, share.value, bottom=base, color=colour, label=name.upper(),
                width=0.9, edgecolor="0.6", linewidth=0.4,
            )  # fmt: skip
            base = base + share.value
        axes.set_ylabel(f"share of verdicts on\n{label} prompts (n={share.n})")
        axes.set_ylim(0, 1)
        by_exit(axes, scores.exits)
    figure.axes[0].set_title("What each exit decides after its thought")
    figure.axes[0].legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.07))
    return figure


def _lengths(scores: Scores):
    figure = new_figure(1)
    axes = figure.axes[0]
    sources = [*(s for s in scores.sources if s.startswith("cut ")), "thought"]
    for n, source in enumerate(sources):
        found = scores.of(source, "balanced_accuracy")
        name = "whole thought" if source == "thought" else f"{source.removeprefix('cut ')} tokens"
        style = ("s--", "^:", "D-.", "o-")[n % 4] if source != "thought" else "o-"
        # Bands of the first and the last only: of all they hide each other.
        axes.plot(scores.exits, found.value, style, color=_LINES[n % 6], markersize=3.5, label=name)
        if source in (sources[0], "thought"):
            axes.fill_between(
                scores.exits, found.low, found.high, color=_LINES[n % 6], alpha=0.15, linewidth=0
            )
    axes.axhline(0.5, color="0.5", linewidth=0.8, zorder=0)
    axes.set_ylim(-0.02, 1.02)
    by_exit(axes, scores.exits)
    axes.set_ylabel("balanced accuracy of verdicts")
    axes.set_title(f"Does thinking help? n={found.n}, chance 0.5, 95% bands of the extremes")
    axes.legend(frameon=False, title="thought", ncols=2)
    return figure


def _votes(run_path, scores: Scores):
    figure = new_figure(1)
    axes = figure.axes[0]
    exit = scores.exits[-1]
    tokens: dict[int, list[int]] = {}
    for row in read_table(run_path, VOTES).to_pylist():
        if row["exit"] == exit and row["rule"] == "majority":
            tokens.setdefault(row["votes"], []).append(row["tokens"])
    counts = sorted(tokens)
    cost = [np.mean(tokens[count]) for count in counts]
    for n, (rule, style) in enumerate(zip(("majority", "mean", "cautious"), ("o-", "s--", "^:"))):  # noqa: B905
        found = [scores.of(f"{rule} of {count}", "balanced_accuracy") for count in counts]
        value, low, high = (
            np.array([getattr(f, k)[-1] for f in found]) for k in ("value", "low", "high")
        )
        axes.errorbar(
            np.array(cost) * (1 + 0.01 * (n - 1)), value, yerr=(value - low, high - value),
            fmt=style, color=_LINES[(0, 3, 2)[n]], markersize=4, capsize=2, label=rule,
        )  # fmt: skip
    axes.axhline(0.5, color="0.5", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"tokens generated per prompt ({counts[0]} to {counts[-1]} votes)")
    axes.set_ylabel(f"balanced accuracy at exit {exit}")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("Do votes help? 95% intervals")
    axes.legend(frameon=False)
    return figure


def _calibration(run_path, scores: Scores):
    figure = new_figure(1)
    axes = figure.axes[0]
    exit = scores.exits[-1]
    harmful = {
        p["prompt_id"]: p["label"] == "harmful" for p in read_table(run_path, "prompts").to_pylist()
    }
    kinds = {"after the thought": [r for r in _first(run_path, VERDICT_TABLE) if r["exit"] == exit]}
    if "cut 0" in scores.sources:
        rows = _first(run_path, CUTS)
        kinds["without a thought"] = [r for r in rows if r["exit"] == exit and r["cut"] == 0]
    for (name, rows), colour, style in zip(kinds.items(), _LINES[::3], ("o-", "s--"), strict=False):
        p = np.array([r["p_refuse"] + r["p_partial"] for r in rows])
        true = np.array([harmful[r["prompt_id"]] for r in rows])
        place = np.minimum((p * _BINS).astype(int), _BINS - 1)
        bins = [b for b in range(_BINS) if (place == b).any()]
        x = [p[place == b].mean() for b in bins]
        y = [true[place == b].mean() for b in bins]
        axes.plot(x, y, style, color=colour, markersize=4, label=f"{name} (n={len(rows)})")
        for b, at_x, at_y in zip(bins, x, y, strict=True):
            axes.annotate(
                str(int((place == b).sum())), (at_x, at_y), textcoords="offset points",
                xytext=(4, 4), fontsize="x-small", color=colour,
            )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("P(refuse) + P(partial); prompts per bin beside the points")
    axes.set_ylabel("share of prompts that are harmful")
    axes.set_title(f"Calibration of verdicts at exit {exit}")
    axes.legend(frameon=False)
    return figure


def _along(scores: Scores):
    figure = new_figure(1)
    axes = figure.axes[0]
    cuts = sorted(int(s.removeprefix("cut ")) for s in scores.sources if s.startswith("cut "))
    for label, style in (("harmful", "o-"), ("harmless", "s--")):
        found = [scores.of(f"cut {cut}", f"p_caution_{label}") for cut in cuts]
        found.append(scores.of("thought", f"p_caution_{label}"))
        value, low, high = (
            np.array([getattr(f, k)[-1] for f in found]) for k in ("value", "low", "high")
        )
        if np.isfinite(value).any():
            name = f"{label} (n={found[0].n}), 95% band"
            at = np.arange(len(found))
            axes.plot(at, value, style, color=COLOURS[label], markersize=4, label=name)
            axes.fill_between(at, low, high, color=COLOURS[label], alpha=0.2, linewidth=0)
    axes.set_xticks(np.arange(len(cuts) + 1), [*map(str, cuts), "whole"])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("tokens of the thought that the verdict sees")
    axes.set_ylabel("mean P(refuse) + P(partial)")
    axes.set_title(f"The verdict along the thought, exit {scores.exits[-1]}")
    axes.legend(frameon=False)
    return figure


def _first(run_path, table: str) -> list[dict]:
    return [r for r in read_table(run_path, table).to_pylist() if r["vote"] == 0]
