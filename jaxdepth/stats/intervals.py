"""Intervals for what is averaged over prompts."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float


def bootstrap_means(
    values_NX: Float[np.ndarray, "N X"],
    clusters_N: Sequence,
    groups: Sequence[Bool[np.ndarray, " N"]],
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "M R X"]:
    """Means of groups of prompts in bootstrap resamples of whole clusters.

    The harmful and the harmless prompt of a pair are not independent, so a pair is resampled as
    one. All groups share the resamples: the difference of two rows is that of the two means.

    Args:
        values_NX: X numbers per prompt, such as one per exit.
        clusters_N: the cluster of each prompt, such as its pair.
        groups: M masks over the prompts, none empty.
        resamples: R.
        seed: of the generator.

    Returns:
        The mean of each group in each resample; NaN where a resample has no member of the group.
    """
    counts_RN = resample_counts(clusters_N, resamples, seed)
    means = []
    for group_N in groups:
        counts_RG = counts_RN[:, group_N]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((counts_RG @ values_NX[group_N]) / counts_RG.sum(axis=1)[:, None])
    return np.stack(means)


def resample_counts(
    clusters_N: Sequence, resamples: int = 2000, seed: int = 0
) -> Float[np.ndarray, "R N"]:
    """How often each prompt is in each of R bootstrap resamples of whole clusters."""
    cluster_N = np.unique(np.asarray(clusters_N, dtype=object).astype(str), return_inverse=True)[1]
    size = cluster_N.max() + 1
    rng = np.random.default_rng(seed)
    counts_RC = rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
    return counts_RC[:, cluster_N]


def wilson(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a rate; at 0 and at `total` the open side is the rule of three.

    Source: Wilson 1927; for the rule of three Hanley and Lippman-Hand 1983 (3/n for 95%: the bound
    at which seeing nothing has a probability of 1 - level).
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = count / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    three = min(1.0, -math.log(1 - level) / total)
    low = 0.0 if count == 0 else 1 - three if count == total else middle - half
    high = three if count == 0 else 1.0 if count == total else middle + half
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test, from the two counts of discordant pairs."""
    total = only_first + only_second
    if total == 0:
        return 1.0
    least = min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(least + 1))
    return min(1.0, tail / 2 ** (total - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for several tests (Holm 1979), in the given order."""
    count, adjusted, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def interval(
    resampled_RX: Float[np.ndarray, "R X"], level: float = 0.95
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Lower and upper percentile bounds of R bootstrap resamples, each of shape (X,)."""
    tail = 50 * (1 - level)
    low_X, high_X = (np.nanpercentile(resampled_RX, p, axis=0) for p in (tail, 100 - tail))
    return low_X, high_X
