"""Confidence intervals and tests for means over prompts."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from jaxdepth.stats.sufficiency import enough

MAX_RESAMPLES = 100_000


def bootstrap_means(
    values_NX: Float[np.ndarray, "N X"],
    clusters_N: Sequence | Shaped[np.ndarray, " N"],
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
    clusters_N: Sequence | Shaped[np.ndarray, " N"], resamples: int = 2000, seed: int = 0
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
    three = min(1.0, -math.log(1 - level) / total)
    if count == 0:
        return 0.0, three
    if count == total:
        return 1 - three, 1.0
    low, high = proportion_confint(count, total, alpha=1 - level, method="wilson")
    return float(low), float(high)


def holm(p_values: Sequence[float] | Float[np.ndarray, " N"]) -> list[float]:
    """P-values adjusted for several tests (Holm 1979), in the given order."""
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def interval(
    resampled_RX: Float[np.ndarray, "R X"], level: float = 0.95, clusters: int | None = None
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Lower and upper percentile bounds of R bootstrap resamples, each of shape (X,).

    Args:
        resampled_RX: means in each resample; NaN where a resample has no member of the group.
        level: of the interval.
        clusters: how many clusters were resampled. If given, the percentiles are those of an
            expanded interval (Hesterberg 2015, The American Statistician 69): the plain ones are
            too narrow by sqrt((n - 1) / n) and by what Student's quantile exceeds the normal one.
            Where they are not enough there is no interval: both bounds are NaN.
    """
    tail = (1 - level) / 2
    if clusters is not None:
        if not enough(clusters):
            missing_X = np.full(resampled_RX.shape[1:], np.nan)
            return missing_X, missing_X.copy()
        quantile = student.ppf(tail, clusters - 1) * math.sqrt(clusters / (clusters - 1))
        tail = float(norm.cdf(quantile))
    is_missing_X = np.isnan(resampled_RX).all(axis=0)  # numpy would warn of each
    known_RX = np.where(is_missing_X, 0, resampled_RX)
    bounds = (np.nanpercentile(known_RX, 100 * p, axis=0) for p in (tail, 1 - tail))
    low_X, high_X = (np.where(is_missing_X, np.nan, bound_X)[()] for bound_X in bounds)
    return low_X, high_X
