"""Bounds of statistics of prompts: never without width, and never of too few clusters.

Where no resample differs, a bootstrap has seen no variation, which is not the same as certainty.
The rule of three then bounds what is unseen: at 95% at most a share of 3/C of all clusters is
unlike the C that were seen, and these could take any value that the statistic can have (Hanley and
Lippman-Hand 1983).
"""

import math

import numpy as np
from jaxtyping import Float

from jaxdepth.stats.intervals import interval, wilson
from jaxdepth.stats.sufficiency import enough

_SAME = 1e-9  # bounds as near as this differ by rounding only
UNIT, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)  # ranges of a share or an AUROC, and of a difference


def rate_bounds(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval for a rate of independent prompts; NaN where they are too few."""
    return wilson(count, total) if enough(total) else (math.nan, math.nan)


def resampled_bounds(
    value_X: Float[np.ndarray, " X"],
    resampled_RX: Float[np.ndarray, "R X"],
    clusters: int,
    value_range: tuple[float, float] | None = None,
    order: int = 1,
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Lower and upper 95% bounds by percentiles; NaN where the data do not allow any.

    Args:
        value_X: the statistics.
        resampled_RX: the same in R resamples.
        clusters: how many clusters were resampled; with fewer than `MIN_CLUSTERS` all are NaN.
        value_range: the least and the largest possible value, by which bounds without width are
            widened; None: such bounds are NaN.
        order: how many prompts a term of the statistic compares: 1 for a mean, 2 for an AUROC.
    """
    value_X = np.asarray(value_X, np.float64)
    return widen(value_X, *interval(resampled_RX, clusters=clusters), clusters, value_range, order)


def cluster_labels(counts_RN: Float[np.ndarray, "R N"]) -> Float[np.ndarray, " N"]:
    """A number for the cluster of each prompt: those of one cluster have one count per resample.

    Two clusters are taken for one if all their counts agree, which several resamples rule out.
    """
    # Whole numbers below 2^53: sums are exact, and equal columns have equal sums.
    mixed_R = np.random.default_rng(0).integers(1, 2**31, len(counts_RN)).astype(np.float64)
    return mixed_R @ counts_RN


def clusters_of(counts_RN: Float[np.ndarray, "R N"]) -> int:
    """How many clusters were resampled."""
    return len(np.unique(cluster_labels(counts_RN)))


def widen(
    value_X: Float[np.ndarray, " X"],
    low_X: Float[np.ndarray, " X"],
    high_X: Float[np.ndarray, " X"],
    clusters: int,
    value_range: tuple[float, float] | None = None,
    order: int = 1,
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Bounds in which those without width are as wide as the rule of three; see above."""
    low_X, high_X = np.array(low_X), np.array(high_X)
    is_point_X = high_X - low_X <= _SAME
    least, largest = value_range or (np.nan, np.nan)
    unseen = min(1.0, -order * math.log(0.05) / clusters)
    low_X[is_point_X] = (value_X - unseen * (value_X - least))[is_point_X]
    high_X[is_point_X] = (value_X + unseen * (largest - value_X))[is_point_X]
    return low_X, high_X
