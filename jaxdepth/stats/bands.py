"""Bounds that hold for all exits of a curve at once, and how many prompts would decide.

"Some exit is unsafe" searches all exits: with an interval of 95% at each, a model whose rate is 5%
everywhere has some exit whose interval lies above 5% in a third to two thirds of runs. The bounds
here cover all exits together in at least 95% of runs, whatever the correlation between exits.

Sources: exact binomial bounds, Clopper and Pearson 1934 (Biometrika 26); over several exits each at
a share of the error (Bonferroni); maximum of studentised bootstrap deviations, Montiel Olea and
Plagborg-Moller 2019 (J. Applied Econometrics 34).
"""

from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.stats import beta, norm
from scipy.stats import t as student

from jaxdepth.stats.sufficiency import enough

_MOST_PROMPTS = 1_000_000


def share_band(
    share_E: Float[np.ndarray, " E"], n: float, level: float = 0.95, tests: int | None = None
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """Exact bounds of the rates at E exits that hold for all of them at once.

    Where a prompt has several samples its share counts as one answer: the bounds are conservative.

    Args:
        share_E: the share of prompts at each exit, 0..1.
        n: how many independent prompts each share is of.
        level: with at least this probability all bounds hold.
        tests: how many exits share the error; E by default.
    """
    share_E = np.asarray(share_E, np.float64)
    tail = _tail(level, tests or len(share_E))
    return _lower(share_E, n, tail), 1 - _lower(1 - share_E, n, tail)


@cache
def prompts_to_decide(share: float, bar: float, tests: int, level: float = 0.95) -> int | None:
    """How many prompts would decide on which side of a bar the rate at an exit is.

    The smallest n at which the bound of `share_band` leaves the bar if the share stays what it was;
    by chance the share will differ, so that this many decide about half of the time. None where the
    share is too near to the bar for a million prompts.
    """
    tail = _tail(level, tests)

    def decides(n: int) -> bool:
        if share > bar:
            return bool(_lower(np.array([share]), n, tail)[0] > bar)
        return bool(_lower(np.array([1 - share]), n, tail)[0] > 1 - bar)

    if share == bar or not decides(_MOST_PROMPTS):
        return None
    low, high = 0, _MOST_PROMPTS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def mean_band(
    mean_X: Float[np.ndarray, " X"],
    resampled_RX: Float[np.ndarray, "R X"],
    clusters: int,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Bounds of X means that hold for all of them at once, from bootstrap resamples.

    The half-width at each x is its standard error times one number: the quantile, over resamples,
    of the largest deviation in standard errors. NaN where clusters are not enough, or a mean is
    NaN: the others' bounds hold without it.

    Args:
        mean_X: the means.
        resampled_RX: the same in each of R resamples of whole clusters.
        clusters: how many clusters were resampled.
        level: with about this probability all bounds hold.
    """
    is_known_X = np.isfinite(mean_X)
    if not enough(clusters) or not is_known_X.any():
        return np.full(len(mean_X), np.nan), np.full(len(mean_X), np.nan)
    if not is_known_X.all():
        low_X, high_X = np.full((2, len(mean_X)), np.nan)
        known = mean_band(mean_X[is_known_X], resampled_RX[:, is_known_X], clusters, level)
        low_X[is_known_X], high_X[is_known_X] = known
        return low_X, high_X
    resampled_RX = resampled_RX[np.isfinite(resampled_RX).all(axis=1)]
    error_X = resampled_RX.std(axis=0)
    deviation_RX = np.abs(resampled_RX - resampled_RX.mean(axis=0)) / np.maximum(error_X, 1e-12)
    # A bootstrap's standard error is too small by sqrt((n - 1) / n), and itself uncertain.
    narrow = clusters / (clusters - 1) * _student_over_normal(level, clusters - 1) ** 2
    half_X = np.quantile(deviation_RX.max(axis=1), level) * error_X * narrow**0.5
    return mean_X - half_X, mean_X + half_X


def _student_over_normal(level: float, degrees: int) -> float:
    """By what Student's quantile exceeds the normal one."""
    tail = (1 + level) / 2
    return float(student.ppf(tail, degrees) / norm.ppf(tail))


def _tail(level: float, tests: int) -> float:
    return (1 - level) / 2 / tests


def _lower(share_E: Float[np.ndarray, " E"], n: float, tail: float) -> Float[np.ndarray, " E"]:
    """The rate under which so high a share has a probability of `tail`."""
    count_E = np.asarray(share_E) * n
    bound_E = beta.ppf(tail, np.maximum(count_E, 1e-12), n - count_E + 1)
    return np.where(count_E > 0, bound_E, 0.0)
