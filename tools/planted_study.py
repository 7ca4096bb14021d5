"""Estimators on planted models with known ground truth: the numbers of docs/planted.md.

    python tools/planted_study.py --seeds 200
    python tools/planted_study.py --seeds 200 --prompts 80 --noise 0.6
    python tools/planted_study.py --categories 40
    python tools/planted_study.py --figure docs/figures/planted.png

Each seed has its own a < b and its own prompts; a second model of the seed has nothing planted.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binomtest

import jaxdepth
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.categories import OrTest, category_scores, compare_or
from jaxdepth.probing.folds import CrossFitted, cross_fit, make_folds
from jaxdepth.probing.planted import OPENER, PlantedPrompts, planted, planted_prompts
from jaxdepth.refusal.openers import first_token
from jaxdepth.stats.change_point import ChangePoint, Lag, change_point, lag
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import interval, resample_counts
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.figures import band, new_figure

LAYERS = 12
STRENGTHS = (0.01, 0.03, 0.1)
RESAMPLES = 500


class Curve(NamedTuple):
    """A number per layer, and its bootstrap resamples."""

    value_X: np.ndarray
    resampled_RX: np.ndarray


class Activity(NamedTuple):
    """Activations and refusals of a model on prompts."""

    x_JND: np.ndarray  # the stream at the last token
    log_odds_EN: np.ndarray  # of a refusal, exits 1..L
    refused_N: np.ndarray  # at full depth


class Estimates(NamedTuple):
    """Curves and their change points."""

    curves: dict[str, Curve]
    content: ChangePoint
    behaviour: ChangePoint
    refusal: ChangePoint
    lag: Lag  # from content to refusal


every_exit = jax.jit(jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0)))


def run(model, prompts: PlantedPrompts) -> Activity:
    tokens, lengths = jnp.asarray(prompts.tokens_NS), jnp.asarray(prompts.lengths_N)
    x_NPJD = residuals(model, tokens, lengths, (prompts.lengths_N - 1)[:, None])
    logits_ENV = every_exit(model, tokens, lengths, jnp.arange(1, LAYERS + 1))
    is_opener_V = np.arange(logits_ENV.shape[-1]) == OPENER
    first = first_token(logits_ENV, is_opener_V)
    log_odds_EN, refused_N = np.asarray(first.refusal_log_odds), is_opener_V[first.top_token[-1]]
    return Activity(np.moveaxis(np.asarray(x_NPJD[:, 0]), 1, 0), log_odds_EN, refused_N)


def fitted(x_JND, y_N, pair_N, counts_RN, seed: int) -> tuple[Curve, CrossFitted]:
    """Held-out AUROC of a label by layer, and its probes."""
    fold_N = make_folds(pair_N.tolist(), y_N, seed=seed)
    probes = cross_fit(x_JND, y_N, fold_N, STRENGTHS)
    score_JN = probes.score_GN
    return Curve(auroc(score_JN, y_N, fold_N), auroc(score_JN, y_N, fold_N, counts_RN)), probes


def estimate_planted(
    a: int | None, b: int | None, seed: int, count: int = 160, noise: float = 0.35
) -> Estimates:
    """Everything about one planted model and its prompts.

    Where no refusal is planted the label of behaviour is the mood.
    """
    prompts = planted_prompts(count, seed=seed)
    activity = run(planted(a, b, LAYERS, noise=noise, seed=seed), prompts)
    harmful_N = prompts.harmful_N
    counts_RN = resample_counts(prompts.pair_N, RESAMPLES, seed)
    content, _ = fitted(activity.x_JND, harmful_N, prompts.pair_N, counts_RN, seed)
    label_N = prompts.mood_N if b is None else activity.refused_N
    behaviour, _ = fitted(
        activity.x_JND[:, harmful_N],
        label_N[harmful_N],
        prompts.pair_N[harmful_N],
        counts_RN[:, harmful_N],
        seed,
    )

    def gap(weights_RN):
        """Refusal of harmful prompts less that of harmless ones."""
        harmful_RN, harmless_RN = weights_RN * harmful_N, weights_RN * ~harmful_N
        return (harmful_RN @ activity.log_odds_EN.T) / harmful_RN.sum(axis=1, keepdims=True) - (
            harmless_RN @ activity.log_odds_EN.T
        ) / harmless_RN.sum(axis=1, keepdims=True)

    refusal = Curve(gap(np.ones((1, len(harmful_N))))[0], gap(counts_RN))
    points = [change_point(*content), change_point(*behaviour), change_point(*refusal, first=1)]
    curves = {"content": content, "behaviour": behaviour, "refusal": refusal}
    return Estimates(curves, *points, lag(points[0], points[2]))


def truth(seed: int) -> tuple[int, int]:
    """The a and b of a seed, 1 <= a < b <= L."""
    a, b = np.sort(np.random.default_rng(seed).choice(LAYERS, size=2, replace=False) + 1)
    return int(a), int(b)


class Counts(NamedTuple):
    """Over some seeds, by what was estimated."""

    seeds: int
    detected: dict[str, int]  # rises claimed where one is planted
    covered: dict[str, int]  # of these, intervals of the midpoint that contain the truth
    covered_onset: dict[str, int]  # the same of the onset; a planted rise is a step, with both
    exact: dict[str, int]  # of these, midpoints that are the truth
    gradual: dict[str, int]  # of these, called gradual; all planted ones are jumps
    claimed: dict[str, int]  # rises claimed where nothing is planted


def count(seeds: int, prompts: int = 160, noise: float = 0.35) -> Counts:
    names = ("content", "behaviour", "refusal")
    counts = Counts(seeds, *(dict.fromkeys((*names, "lag"), 0) for _ in range(6)))
    for seed in range(seeds):
        a, b = truth(seed)
        estimates, nothing = (
            estimate_planted(*places, seed, prompts, noise) for places in ((a, b), (None, None))
        )
        for name, place in zip(names, (a, b, b), strict=True):
            point = getattr(estimates, name)
            if point.kind != "none":
                counts.detected[name] += 1
                counts.covered[name] += point.midpoint.low <= place <= point.midpoint.high
                counts.covered_onset[name] += point.onset.low <= place <= point.onset.high
                counts.exact[name] += point.midpoint.layer == place
                counts.gradual[name] += point.kind == "gradual"
            counts.claimed[name] += getattr(nothing, name).kind != "none"
        if "none" not in (estimates.content.kind, estimates.refusal.kind):
            counts.detected["lag"] += 1
            onset, midpoint = estimates.lag
            counts.covered["lag"] += midpoint.low <= b - a <= midpoint.high
            counts.covered_onset["lag"] += onset.low <= b - a <= onset.high
            counts.exact["lag"] += midpoint.layers == b - a
    return counts


def p_covers(covered: int, total: int) -> float:
    """P-value of a coverage below 95%; one-sided, as intervals of whole numbers cover more."""
    return binomtest(covered, total, 0.95, alternative="less").pvalue


def p_claims(claimed: int, total: int) -> float:
    """P-value of a false positive rate above 5%."""
    return binomtest(claimed, total, 0.05, alternative="greater").pvalue


def table(counts: Counts) -> str:
    rows = [
        "| what | rise detected | interval of the midpoint contains the truth | of the onset "
        "| midpoint is the truth | called gradual | rise claimed with nothing planted |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, detected in counts.detected.items():
        row = [name, f"{detected}/{counts.seeds}", f"{counts.covered[name]}/{detected}"]
        row.append(f"{counts.covered_onset[name]}/{detected}")
        row.append(f"{counts.exact[name]}/{detected}")
        if name == "lag":
            row += ["", ""]
        else:
            row += [f"{counts.gradual[name]}/{detected}", f"{counts.claimed[name]}/{counts.seeds}"]
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def transfer(a: int, b: int, seed: int) -> tuple[Curve, Curve]:
    """AUROC of harm by layer with the confound: held-out in distribution, and without it.

    The second uses the probes of the first (the mean of the folds' decisions) on prompts in which
    the marker carries no information.
    """
    model = planted(a, b, LAYERS, confound=True, seed=seed)
    inside = planted_prompts(confound=True, seed=seed)
    outside = planted_prompts(seed=10_000 + seed)
    counts_RN = resample_counts(inside.pair_N, RESAMPLES, seed)
    x_JND = run(model, inside).x_JND
    held_out, probes = fitted(x_JND, inside.harmful_N, inside.pair_N, counts_RN, seed)
    weights_JD, bias_J = probes.weights_GFD.mean(axis=1), probes.bias_GF.mean(axis=1)
    x_JND = run(model, outside).x_JND
    score_JN = np.einsum("jnd,jd->jn", x_JND, weights_JD) + bias_J[:, None]
    counts_RN = resample_counts(outside.pair_N, RESAMPLES, seed)
    y_N = outside.harmful_N
    return held_out, Curve(auroc(score_JN, y_N), auroc(score_JN, y_N, None, counts_RN))


class Scored(NamedTuple):
    """Prompts whose mood is on, with held-out scores of categories between a and b."""

    score_NK: np.ndarray
    category_NK: np.ndarray
    log_odds_N: np.ndarray  # of a refusal at full depth
    fold_N: np.ndarray
    counts_RN: np.ndarray

    def compare(self, refusal_N) -> OrTest:
        return compare_or(self.score_NK, self.category_NK, refusal_N, self.fold_N, self.counts_RN)


def score(seed: int) -> Scored:
    """Of 640 prompts, those whose mood is on, after layer 6 of a model with a = 4 and b = 8."""
    prompts = planted_prompts(640, seed=seed)
    activity = run(planted(4, 8, LAYERS, seed=seed), prompts)
    fold_N = make_folds(prompts.pair_N.tolist(), prompts.harmful_N, seed=seed)
    rows_N = (prompts.harmful_N, prompts.category_NK, fold_N)
    score_NK = category_scores(activity.x_JND[6], *rows_N)
    counts_RN = resample_counts(prompts.pair_N, RESAMPLES, seed)
    columns = (score_NK, prompts.category_NK, activity.log_odds_EN[-1], fold_N, counts_RN.T)
    *kept, counts_NR = (column[prompts.mood_N] for column in columns)
    return Scored(*kept, counts_NR.T)


def sum_or_or(seeds: int) -> str:
    """How often an OR and a sum win where refusal is an OR, and where it is simulated as a sum."""
    wins = np.zeros((2, 2), int)
    for seed in range(seeds):
        scored = score(seed)
        noise_N = np.random.default_rng(seed).standard_normal(len(scored.fold_N)) / 2
        for row, y_N in enumerate((scored.log_odds_N, scored.category_NK.sum(axis=1) + noise_N)):
            test = scored.compare(y_N)
            wins[row] += test.low > 0, test.high < 0
    rows = ["| refusal is | OR wins | sum wins |", "|---|---|---|"]
    for name, (first, second) in zip(("an OR", "a sum"), wins, strict=True):
        rows.append(f"| {name} | {first}/{seeds} | {second}/{seeds} |")
    return "\n".join(rows)


def draw(path: Path, a: int = 4, b: int = 8, seed: int = 0) -> None:
    """Curves of one planted model, with the truth as vertical lines."""
    curves, (inside, outside) = estimate_planted(a, b, seed).curves, transfer(a, b, seed)
    figure = new_figure(3)
    figure.set_size_inches(7.2, 7.6)
    top, middle, bottom = figure.axes
    red, blue, grey = "#b5312b", "#1f6fa8", "0.35"
    lines = [
        (top, curves["content"], red, "harmful or harmless", "o-"),
        (top, curves["behaviour"], blue, "refused or not, among harmful", "s--"),
        (middle, curves["refusal"], grey, "harmful - harmless", "o-"),
        (bottom, inside, red, "in distribution", "o-"),
        (bottom, outside, blue, "transfer: the confound is gone", "s--"),
    ]
    for axes, curve, colour, name, style in lines:
        numbers = np.arange(LAYERS + 1)[-len(curve.value_X) :]
        estimate = Estimate(curve.value_X, *interval(curve.resampled_RX))
        band(axes, numbers, estimate, colour, f"{name}, 95% band", style)
    for axes in figure.axes:
        axes.set_xlim(-0.7, LAYERS + 0.7)
        for layer, name in ((a, "a"), (b, "b")):
            axes.axvline(layer, color="0.5", linewidth=0.9, linestyle=":", zorder=0)
            axes.text(layer + 0.08, 0.99, name, transform=axes.get_xaxis_transform(), va="top")
        place = "center left" if axes is middle else "lower right"
        axes.legend(loc=place, framealpha=1, edgecolor="none")
    for axes in (top, bottom):
        axes.set_ylim(0.15, 1.08)
        axes.axhline(0.5, color="0.5", linewidth=0.8, zorder=0)
        axes.set_ylabel("held-out AUROC")
    top.set_title(f"Planted: harm readable from layer a = {a}, refusal decided at b = {b}")
    middle.set_ylabel("refusal log-odds (nats)")
    middle.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    bottom.set_title("With a confound that is there from the embedding on")
    bottom.set_xlabel("layer, or exit (0: the embedding)")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=0, help="how many seeds to count")
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--noise", type=float, default=0.35)
    parser.add_argument("--categories", type=int, default=0, help="how many seeds of sum or OR")
    parser.add_argument("--figure", type=Path, help="a PNG file to draw")
    args = parser.parse_args()
    if args.seeds:
        print(table(count(args.seeds, args.prompts, args.noise)))
    if args.categories:
        print(sum_or_or(args.categories))
    if args.figure:
        draw(args.figure)


if __name__ == "__main__":
    main()
