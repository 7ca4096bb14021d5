"""Intervals for what is averaged over prompts."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float


def cluster_bootstrap(
    values_NX: Float[np.ndarray, "N X"],
    clusters_N: Sequence,
    groups: Sequence[Bool[np.ndarray, " N"]],
    draws: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "M R X"]:
    """Bootstrap means of groups of prompts, whole clusters being drawn at a time.

    The halves of a pair are not independent, so a pair is drawn or left out as one. All groups use
    the same draws: a difference between two of them is the difference of their rows.

    Args:
        values_NX: X numbers per prompt, such as one per exit.
        clusters_N: the cluster of each prompt, such as its pair.
        groups: M masks over the prompts, none empty.
        draws: R, how often to draw.
        seed: of the generator.

    Returns:
        The mean of each group in each draw. A draw without a member of a group gives NaN there.
    """
    times_RN = cluster_draws(clusters_N, draws, seed)
    means = []
    for group_N in groups:
        times_RG = times_RN[:, group_N]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((times_RG @ values_NX[group_N]) / times_RG.sum(axis=1)[:, None])
    return np.stack(means)


def cluster_draws(
    clusters_N: Sequence, draws: int = 2000, seed: int = 0
) -> Float[np.ndarray, "R N"]:
    """How often each prompt is in each of R bootstrap draws of whole clusters."""
    number_N = np.unique(np.asarray(clusters_N, dtype=object).astype(str), return_inverse=True)[1]
    size = number_N.max() + 1
    rng = np.random.default_rng(seed)
    times_RC = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)
    return times_RC[:, number_N]


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


def interval(draws_RX: Float[np.ndarray, "R X"], level: float = 0.95):
    """Lower and upper percentile bounds of bootstrap draws, each of shape (X,)."""
    tail = 50 * (1 - level)
    return np.nanpercentile(draws_RX, tail, axis=0), np.nanpercentile(draws_RX, 100 - tail, axis=0)
