"""The threshold of an exit policy, from validation prompts: for a depth, or for a risk.

A policy is tried at a grid of thresholds, of which higher ones are more conservative: tokens exit
later. For a depth the threshold is an estimate with an interval. For a risk it comes with a
guarantee: over random samples of validation prompts, it is chosen wrongly with a probability of at
    most `error`. `certify_rules` bounds several risks at once, over several sequences of rules.

Sources: Learn then Test with fixed-sequence testing, Angelopoulos et al. 2021 (arXiv:2110.01052);
its use for early exits, Schuster et al. 2022 (CALM, arXiv:2207.07061); the Hoeffding-Bentkus
p-value, Bates et al. 2021 (arXiv:2101.02703); the largest of several p-values for the union of
their null hypotheses, Berger 1982 (Technometrics 24).
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import rel_entr
from scipy.stats import binom

from jaxdepth.errors import InputError
from jaxdepth.stats.bands import prompts_to_decide


class Calibrated(NamedTuple):
    """The threshold for a depth; low and high are 95% bounds of the depth at that threshold."""

    index: int  # type: ignore[assignment]  # in the grid; hides tuple.index
    threshold: float
    depth: float  # mean over the validation prompts
    low: float
    high: float


def threshold_for_depth(
    thresholds_R: Float[np.ndarray, " R"],
    depth_NR: Float[np.ndarray, "N R"],
    target: float,
    counts_KN: Float[np.ndarray, "K N"],
) -> Calibrated:
    """The threshold whose mean depth is nearest to a target depth.

    On ties it is the highest, which is the most conservative. The bounds are bootstrap percentiles
    at that threshold: they do not account for its having been chosen by its mean.

    Args:
        thresholds_R: the grid, in any order.
        depth_NR: the mean depth of each prompt's tokens at each threshold.
        target: a depth; one that no threshold reaches gives the threshold that comes closest.
        counts_KN: how often each prompt is in each of K bootstrap resamples.

    Raises:
        InputError: shapes do not fit, there are no prompts, thresholds are not all different, or a
            depth is not finite.
    """
    thresholds_R, depth_NR = _grid(thresholds_R, depth_NR, "depths")
    counts_KN = np.asarray(counts_KN, np.float64)
    if counts_KN.ndim != 2 or len(counts_KN) == 0 or counts_KN.shape[1] != len(depth_NR):
        raise InputError(f"resamples of shape {counts_KN.shape}, expected (K, {len(depth_NR)})")
    if not np.isfinite(depth_NR).all() or not math.isfinite(target):
        raise InputError("depths that are not finite")
    mean_R = depth_NR.mean(axis=0)
    from_highest_R = np.argsort(-thresholds_R)
    # Means on both sides of the target are equally near up to rounding.
    index = int(from_highest_R[np.abs(mean_R - target)[from_highest_R].round(9).argmin()])
    mean_K = counts_KN @ depth_NR[:, index] / counts_KN.sum(axis=1)
    low, high = np.percentile(mean_K, [2.5, 97.5])
    return Calibrated(
        index, float(thresholds_R[index]), float(mean_R[index]), float(low), float(high)
    )


def threshold_for_risk(
    thresholds_R: Float[np.ndarray, " R"],
    loss_NR: Float[np.ndarray, "N R"] | Bool[np.ndarray, "N R"],
    risk: float,
    error: float = 0.05,
    clusters_N: Sequence[Hashable] | Shaped[np.ndarray, " N"] | None = None,
) -> int | None:
    """The lowest threshold that validation prompts certify to have a mean loss of at most `risk`.

    Whatever the losses' distribution, the mean loss of the returned threshold over all prompts that
    there could be exceeds `risk` with a probability of at most `error`, over random samples of
    validation prompts. Thresholds are tested from the highest down, each at the whole level
    `error`, until the first that fails: what lies below it is not tested, so that the size of the
    grid costs no power.

    The guarantee requires prompts that are independent samples, and a grid, risk and error that
    were chosen without looking at their losses. Prompts that belong together, such as the harmful
    and the harmless one of a pair, are not independent: name their clusters, and the risk is the
    mean over clusters of the mean loss within one.

    Args:
        thresholds_R: the grid, in any order.
        loss_NR: the loss of each prompt at each threshold, in [0, 1], such as the share of its
            tokens that are not full depth's; bool where a loss is all or nothing.
        risk: the mean loss that is allowed, in (0, 1).
        error: the probability with which it may be exceeded, in (0, 1).
        clusters_N: the cluster of each prompt. Left out, each prompt is its own, and only then are
            bool losses tested as such: means are not all or nothing.

    Returns:
        Its index in the grid; None if not even the highest threshold passes.

    Raises:
        InputError: shapes do not fit, there are no prompts, thresholds are not all different, a
            loss is not in [0, 1], or `risk` or `error` is not in (0, 1).
    """
    thresholds_R, loss_NR = _grid(thresholds_R, loss_NR, "losses")
    _check(loss_NR, risk=risk, error=error)
    if clusters_N is not None:
        loss_NR = cluster_means(loss_NR, clusters_N)
    order = np.argsort(-thresholds_R)
    count = count_passed((risk_p_value(loss_NR[:, index], risk) for index in order), error)
    return int(order[count - 1]) if count else None


def count_passed(p_values: Iterable[float], error: float) -> int:
    """How many tests of a fixed sequence pass before the first that fails.

    Each is at the whole level `error`: a true hypothesis that is rejected wrongly is the first true
    one of the sequence, or comes after it.
    """
    return sum(1 for _ in takewhile(lambda p: p <= error, p_values))


class Risk(NamedTuple):
    """Losses of independent prompts under R rules, and the mean loss that is tolerated."""

    loss_NR: Float[np.ndarray, "N R"] | Bool[np.ndarray, "N R"]
    tolerance: float


class RuleTests(NamedTuple):
    """The tests of R rules against K risks."""

    p_KR: Float[np.ndarray, "K R"]  # of each risk by itself
    p_R: Float[np.ndarray, " R"]  # of any risk above its tolerance
    certified_R: Bool[np.ndarray, " R"]


def certify_rules(
    risks: Sequence[Risk], sequences: Sequence[Sequence[int]], error: float
) -> RuleTests:
    """Certify the rules under which every risk is within its tolerance.

    Over random samples of prompts, some certified rule has some risk above its tolerance with a
    probability of at most `error`, whatever the losses' distribution and however they correlate. So
    any certified rule may be picked, by its cost for instance. A rule's p-value is the largest of
    its risks', which is valid for their union. Each sequence is tested in its order, until the
    first rule that fails; several sequences share `error` equally (Bonferroni).

    The guarantee requires prompts that are independent samples, and rules, sequences, tolerances
    and an error that were chosen without looking at their losses.

    Args:
        risks: the prompts of each risk may be others.
        sequences: of rules, each from the most conservative on; rules in none are not certified.
        error: in (0, 1).

    Raises:
        InputError: a risk has no prompts, a loss is not in [0, 1], or a tolerance or `error` is not
            in (0, 1).
    """
    p_KR = np.array(
        [[risk_p_value(loss_N, tolerance) for loss_N in loss_NR.T] for loss_NR, tolerance in risks]
    )
    _check(p_KR, error=error)
    p_R, certified_R = p_KR.max(axis=0), np.zeros(p_KR.shape[1], bool)
    for rules in map(list, sequences):
        certified_R[rules[: count_passed(p_R[rules], error / len(sequences))]] = True
    return RuleTests(p_KR, p_R, certified_R)


def prompts_to_certify(rate: float, tolerance: float, error: float) -> int | None:
    """How many prompts certify that a mean loss is within a tolerance, if the rate is as observed.

    By chance the rate will differ, so that this many suffice about half of the time. None where the
    rate is not below the tolerance, or so near to it that a million prompts do not.
    """
    if rate >= tolerance:
        return None
    return prompts_to_decide(rate, tolerance, tests=1, level=1 - 2 * error)


def risk_p_value(loss_N: Float[np.ndarray, " N"] | Bool[np.ndarray, " N"], risk: float) -> float:
    """P-value of independent losses in [0, 1] against the null hypothesis of a mean above `risk`.

    Of bool losses it is the exact binomial tail. Of others it is the smaller of Hoeffding's bound
    and Bentkus's, e times the binomial tail at the sum rounded up. The dtype chooses the test, not
    the numbers: a test that is chosen by the observed losses need not keep its level.

    Raises:
        InputError: there are no losses, one is not in [0, 1], or `risk` is not in (0, 1).
    """
    loss_N = np.asarray(loss_N)
    _check(loss_N, risk=risk)
    count, total = len(loss_N), math.fsum(loss_N)
    if loss_N.dtype == bool:
        return float(binom.cdf(int(total), count, risk))
    mean = min(total / count, risk)
    # Kullback-Leibler divergence of a coin of rate `risk` from one of rate `mean`, in nats.
    divergence = rel_entr(mean, risk) + rel_entr(1 - mean, 1 - risk)
    hoeffding = math.exp(-count * divergence)
    above = math.ceil(total - 1e-9)  # ten times 1 - 0.7 are 3, not 4
    return min(hoeffding, math.e * float(binom.cdf(above, count, risk)))


def cluster_means(
    loss_NR, clusters_N: Sequence[Hashable] | Shaped[np.ndarray, " N"]
) -> Float[np.ndarray, "C R"]:
    """The mean loss of each cluster."""
    if len(clusters_N) != len(loss_NR):
        raise InputError(f"{len(clusters_N)} clusters for {len(loss_NR)} prompts")
    rows: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(clusters_N):
        rows.setdefault(cluster, []).append(row)
    return np.stack([loss_NR[members].mean(axis=0) for members in rows.values()])


def _grid(
    thresholds_R, values_NR, what: str
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, "N R"]]:
    """Both as arrays; raises InputError for shapes or thresholds that `threshold_for_*` refuse."""
    thresholds_R, values_NR = np.asarray(thresholds_R, np.float64), np.asarray(values_NR)
    if thresholds_R.ndim != 1 or values_NR.ndim != 2 or values_NR.shape[1:] != thresholds_R.shape:
        raise InputError(
            f"{what} of shape {values_NR.shape} at thresholds of shape {thresholds_R.shape},"
            " expected (N, R) and (R,)"
        )
    if values_NR.size == 0:
        raise InputError(f"{what} of shape {values_NR.shape}: no prompts or no thresholds")
    if np.isnan(thresholds_R).any() or len(np.unique(thresholds_R)) < len(thresholds_R):
        raise InputError(f"thresholds {thresholds_R.tolist()} are not all different numbers")
    return thresholds_R, values_NR


def _check(losses, **probabilities: float) -> None:
    """Raise InputError for missing losses, losses not in [0, 1], probabilities not in (0, 1)."""
    if losses.size == 0 or not ((losses >= 0) & (losses <= 1)).all():
        raise InputError("losses are missing or not all in 0..1")
    for name, value in probabilities.items():
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}, expected more than 0 and less than 1")
