"""Calibration and selective prediction: log loss, calibration error, risk and coverage.

The calibration error is the root mean square, over bins of equal mass, of the difference between
the share of true events and the mean predicted probability. The plug-in estimate of an error in
bins is biased upwards by noise: the expected calibration error (ECE) of perfect predictions is .13
at n = 60. The square has an unbiased estimate, so the square is what is debiased, and its interval
reaches 0. The ECE of the same bins, a mean of absolute differences, is never larger than the root
mean square: an upper bound of this is one of the ECE too. Binning hides errors that cancel out
within a bin, as in every estimate of this kind.

Sources: ECE, Naeini et al. 2015, Guo et al. 2017 (arXiv:1706.04599); its bias and the debiased
square, Broecker 2012 (Climate Dynamics 39), Kumar, Liang and Ma 2019 (arXiv:1909.10155); the test
of perfect calibration by simulated labels, Broecker and Smith 2007 (Weather and Forecasting 22),
Vaicenavicius et al. 2019 (arXiv:1902.06977).
"""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdepth.errors import InputError
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.sufficiency import enough

BAR = 0.05  # a calibration error that counts as small; the n that can show it is reported
_IN_A_BIN, _MAX_BINS = 15, 10
_RULE_OF_THREE = -math.log(0.05)  # over n it bounds the rate of what n predictions have not shown
_DRAWS = 1000  # of labels under perfect calibration, and of the noise behind an interval


class Calibration(NamedTuple):
    """How well probabilities are calibrated, and what this number of predictions can show."""

    error: Estimate  # root mean square over bins, debiased; NaN bounds: too few clusters
    p: float  # p-value of perfect calibration; NaN where there are too few clusters
    smallest_bound: float  # upper bound of the error that perfect predictions typically get
    n_for_bar: int  # predictions like these at which that bound would be at most BAR


def log_loss(p_N: Float[np.ndarray, " N"], true_N: Bool[np.ndarray, " N"]) -> float:
    """Mean negative log-likelihood in nats; probabilities are clipped to 1e-9 from 0 and 1."""
    p_N = np.clip(p_N, 1e-9, 1 - 1e-9)
    return float(-np.mean(np.where(true_N, np.log(p_N), np.log1p(-p_N))))


def measure_calibration(
    p_N: Float[np.ndarray, " N"],
    true_N: Bool[np.ndarray, " N"],
    clusters_N: Sequence[Hashable] | Shaped[np.ndarray, " N"] | None = None,
    seed: int = 0,
) -> Calibration:
    """Measure the debiased calibration error of predicted probabilities, and test that it is 0.

    The bounds invert the distribution of the plug-in error: normal noise in the bins, around errors
    of every size with the observed shape over bins. The lower bound takes the larger of the noise
    seen and the noise that the predictions imply, and the upper one is never below what perfect
    predictions typically get, so that no interval is without width. The p-value counts labels drawn
    from the predictions, independently: where pairs have one label of each kind it is conservative.

    Args:
        p_N: predicted probabilities.
        true_N: whether each event happened.
        clusters_N: the cluster of each prediction; left out, each is its own.
        seed: of the simulated labels and noise.

    Raises:
        InputError: no predictions, a probability that is none, or lengths that differ.
    """
    p_N, true_N = np.asarray(p_N, np.float64), np.asarray(true_N, bool)
    clusters_N = np.arange(len(p_N)) if clusters_N is None else np.asarray(clusters_N, object)
    if not 0 < len(p_N) == len(true_N) == len(clusters_N):
        raise InputError(f"{len(p_N)} probabilities of {len(true_N)} events: expected some, alike")
    if not ((p_N >= 0) & (p_N <= 1)).all():
        raise InputError("probabilities that are not all in 0..1 have no calibration")
    cluster_N = np.unique(clusters_N.astype(str), return_inverse=True)[1]
    clusters = int(cluster_N.max()) + 1
    # A pair fills two places; of larger clusters the bins need several each.
    bin_N = equal_mass_bins(p_N, bins_for(min(len(p_N), 2 * clusters)))
    count_B, weight_B = np.bincount(bin_N), np.bincount(bin_N) / len(p_N)
    gap_B = np.bincount(bin_N, true_N - p_N) / count_B
    variance_B, cautious_B, implied_B = _gap_variances(p_N, true_N, bin_N, cluster_N)
    squared = float(weight_B @ gap_B**2)
    value = float(np.sqrt(max(0.0, squared - weight_B @ variance_B)))
    shape_B = gap_B / np.sqrt(squared) if squared else np.ones(len(gap_B))
    smallest = _error_quantile(0.975, None, shape_B, cautious_B, weight_B, seed)
    smallest = float(max(smallest, min(1.0, _RULE_OF_THREE / clusters)))
    low, high, p_value = np.nan, np.nan, np.nan
    if enough(clusters):
        at_least_B = np.maximum(cautious_B, implied_B)
        low = _error_quantile(0.025, squared, shape_B, at_least_B, weight_B, seed)
        high = max(
            smallest, _error_quantile(0.975, squared, shape_B, cautious_B, weight_B, seed), value
        )
        low = min(low, value)
        p_value = _p_of_perfect(p_N, bin_N, weight_B, squared, seed)
    error = Estimate(value, low, high, n=len(p_N))
    return Calibration(error, p_value, smallest, _n_for(BAR, p_N, seed))


def bins_for(count: int) -> int:
    """The number of bins: one for 15 predictions, 2 to 10."""
    return min(_MAX_BINS, max(2, count // _IN_A_BIN))


def equal_mass_bins(p_N: Float[np.ndarray, " N"], bins: int) -> Int[np.ndarray, " N"]:
    """The bin of each probability: about as many in each, equal ones always in the same."""
    edges = np.quantile(p_N, np.arange(1, bins) / bins)
    return np.unique(np.searchsorted(edges, p_N, side="right"), return_inverse=True)[1]


def _gap_variances(
    p_N: Float[np.ndarray, " N"],
    true_N: Bool[np.ndarray, " N"],
    bin_N: Int[np.ndarray, " N"],
    cluster_N: Int[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Variances of the mean residual of each bin: unbiased, never 0, and of perfect predictions.

    The second adds two residuals of a half: a bin of 15 in which nothing varies still has a
    standard error of .05, about what the rule of three allows. In the third, predictions of one
    cluster in one bin err together.
    """
    part_N = np.unique(bin_N * (cluster_N.max() + 1) + cluster_N, return_inverse=True)[1]
    bin_P = np.zeros(part_N.max() + 1, int)
    bin_P[part_N] = bin_N
    parts_B, count_B = np.bincount(bin_P), np.bincount(bin_N)

    def squares(value_N: Float[np.ndarray, " N"]) -> Float[np.ndarray, " B"]:
        return np.bincount(bin_P, np.bincount(part_N, value_N) ** 2) / count_B**2

    residual_N = true_N - p_N
    seen_B = squares(residual_N - (np.bincount(bin_N, residual_N) / count_B)[bin_N])
    unbiased_B = seen_B * parts_B / np.maximum(parts_B - 1, 1)
    cautious_B = (seen_B + 0.5 / count_B**2) * parts_B / (parts_B + 1)
    return unbiased_B, cautious_B, squares(np.sqrt(p_N * (1 - p_N)))


def _error_quantile(
    level: float,
    squared: float | None,
    shape_B: Float[np.ndarray, " B"],
    variance_B: Float[np.ndarray, " B"],
    weight_B: Float[np.ndarray, " B"],
    seed: int,
) -> float:
    """The error t for which noise makes the plug-in square as large with probability `level`.

    With noise e and gaps t * shape the square is t^2 + 2 t a + c, linear and quadratic in e; for
    each draw of e the t that gives `squared` is a root, and the level is a quantile over draws.

    Args:
        level: of the quantile.
        squared: the plug-in mean square; None takes its median under perfect calibration.
        shape_B: gaps of the bins, of mean square 1.
        variance_B: of the noise.
        weight_B: shares of the predictions.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    noise_RB = rng.standard_normal((_DRAWS, len(shape_B))) * np.sqrt(variance_B)
    a_R, c_R = noise_RB @ (weight_B * shape_B), noise_RB**2 @ weight_B
    squared = float(np.median(c_R)) if squared is None else squared
    root_R = np.sqrt(np.maximum(0, a_R**2 + squared - c_R)) - a_R
    return float(np.quantile(np.maximum(0, root_R), level))


def _p_of_perfect(
    p_N: Float[np.ndarray, " N"],
    bin_N: Int[np.ndarray, " N"],
    weight_B: Float[np.ndarray, " B"],
    squared: float,
    seed: int,
) -> float:
    """The share of labels drawn from the predictions with a plug-in square as large; never 0."""
    predicted_N = p_N.astype(np.float32)
    residual_RN = (_uniforms(len(p_N), seed) < predicted_N) - predicted_N
    mean_NB = (bin_N[:, None] == np.arange(len(weight_B))) / (weight_B * len(p_N))
    squared_R = (residual_RN @ mean_NB.astype(np.float32)) ** 2 @ weight_B
    return float((1 + np.sum(squared_R >= squared - 1e-7)) / (1 + _DRAWS))


@lru_cache(maxsize=2)
def _uniforms(count: int, seed: int) -> Float[np.ndarray, "R N"]:
    """Uniform numbers, the same for predictions of the same number: layers share them."""
    return np.random.default_rng(seed).random((_DRAWS, count), np.float32)


def _n_for(bar: float, p_N: Float[np.ndarray, " N"], seed: int) -> int:
    """How many predictions like these, if perfect, would typically show an error below `bar`."""
    for bins in (_MAX_BINS, *range(2, _MAX_BINS)):
        bin_N = equal_mass_bins(p_N, bins)
        weight_B = np.bincount(bin_N) / len(p_N)
        # Of one prediction; bounds shrink with the square root of their number.
        variance_B = np.bincount(bin_N, p_N * (1 - p_N)) / np.bincount(bin_N) / weight_B
        bound = _error_quantile(0.975, None, np.ones(len(weight_B)), variance_B, weight_B, seed)
        needed = int(np.ceil(max((bound / bar) ** 2, _RULE_OF_THREE / bar)))
        if bins == _MAX_BINS and bins_for(needed) < bins:
            continue  # so many bins are for more predictions: find how many bins are for as many
        if bins_for(needed) <= bins:
            break
    return needed


def risk_coverage(
    margin_N: Sequence[float], correct_N: Bool[np.ndarray, " N"], coverages: Sequence[float]
) -> list[tuple[float, float, int]]:
    """Selective risk at several coverages: rows of (coverage, risk, number of verdicts).

    The verdicts with the largest margins are kept; ties at the border are all kept. Risk is the
    share of wrong ones among them.
    """
    order = np.argsort(-np.asarray(margin_N, np.float64), kind="stable")
    ordered, rows = np.asarray(margin_N)[order], []
    for coverage in coverages:
        count = max(1, round(coverage * len(order)))
        count = int(np.searchsorted(-ordered, -ordered[count - 1], side="right"))
        risk = 1 - float(np.mean(correct_N[order[:count]]))
        rows.append((count / len(order), risk, count))
    return rows
