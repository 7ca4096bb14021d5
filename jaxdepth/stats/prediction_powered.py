"""Rates by a judge, corrected by a sample that a person labelled (prediction-powered inference).

Every answer has a prediction (whether the judge gives it an outcome); a random sample also has the
truth (whether a careful reader gives it that outcome). The estimate is that of PPI++ (Angelopoulos,
Duchi and Zrnic 2023, arXiv 2311.01453): lambda * mean(prediction) over all answers + the weighted
mean of (truth - lambda * prediction) over the sample, with the lambda of least variance. For 0/1
predictions of which the sample is a part, that lambda is P(truth | predicted) - P(truth | not
predicted), and the estimate equals the post-stratified one: the share of predicted answers times
the first probability, plus the share of the others times the second.

Intervals come from a Bayesian bootstrap (Rubin 1981) of whole clusters: a cluster brings its
predictions and its labels. On each side of the prediction stands half a label of either kind (the
prior of Jeffreys), so that a sample without an error has no interval of zero width. A resample is a
draw of all of this, so contrasts of two models on the same prompts are differences of their
resamples. `tests/stats/test_prediction_powered.py` measures how often the intervals cover.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import interval

_JEFFREYS = 0.5  # labels of either kind that stand on each side of the prediction


class Corrected(NamedTuple):
    """A corrected rate, what it was corrected with, and its bootstrap resamples."""

    rate: Estimate  # n is the number of labels
    power: float  # lambda, which the paper calls power tuning; 0 ignores the predictions
    resampled_R: Float[np.ndarray, " R"]


def corrected_rate(
    predicted_X: Bool[np.ndarray, " X"],
    clusters_X: Sequence | Shaped[np.ndarray, " X"],
    labelled_L: Int[np.ndarray, " L"],
    truth_L: Bool[np.ndarray, " L"],
    weight_L: Float[np.ndarray, " L"],
    *,
    resamples: int = 2000,
    seed: int = 0,
    noise_seed: int = 0,
) -> Corrected:
    """The rate at which a careful reader would see an outcome among X answers.

    Args:
        predicted_X: whether the judge sees it.
        clusters_X: the cluster of each answer, such as the pair of its prompt.
        labelled_L: the indices in X of the answers that are labelled, each once.
        truth_L: whether the reader saw it.
        weight_L: one over the probability with which the answer was drawn into the sample.
        resamples: R.
        seed: of the clusters' weights; equal clusters have equal weights under an equal seed.
        noise_seed: of the prior's labels; different for models that are compared.

    Returns:
        The estimate, NaN where it is undefined: no labels on a side that has answers. Its bounds
        are NaN, too, with fewer clusters than an interval needs.
    """
    cluster_X = np.unique(np.asarray(clusters_X).astype(str), return_inverse=True)[1]
    size = int(cluster_X.max()) + 1
    weights_RC = cluster_weights(size, resamples, seed)
    rng = np.random.default_rng([noise_seed, 1])
    mass_R = weights_RC @ np.bincount(cluster_X, minlength=size)
    value, resampled_R, chances = 0.0, np.zeros(resamples), []
    for side in (True, False):
        is_side_X = predicted_X == side
        share_R = (weights_RC @ np.bincount(cluster_X, is_side_X, size)) / mass_R
        on_side_L = is_side_X[labelled_L]
        chance, chance_R = _chance(
            cluster_X[labelled_L[on_side_L]],
            truth_L[on_side_L],
            weight_L[on_side_L],
            weights_RC,
            rng,
        )
        share = is_side_X.mean()
        value += share * chance if share else 0.0
        resampled_R += share_R * chance_R
        chances.append(chance if share else math.nan)
    power = 0.0 if np.isnan(chances).any() else chances[0] - chances[1]
    (low,), (high,) = interval(resampled_R[:, None], clusters=size)
    # Where every label says the same, the prior would leave that value just outside. NaN stays.
    low, high = np.minimum(low, value), np.maximum(high, value)
    rate = Estimate(value, float(low), float(high), n=len(labelled_L))
    return Corrected(rate, power, resampled_R)


def _chance(
    cluster_L: Int[np.ndarray, " L"],
    truth_L: Bool[np.ndarray, " L"],
    weight_L: Float[np.ndarray, " L"],
    weights_RC: Float[np.ndarray, "R C"],
    rng: np.random.Generator,
) -> tuple[float, Float[np.ndarray, " R"]]:
    """The probability of the outcome on one side of the prediction, and its resamples."""
    prior_2R = rng.gamma(_JEFFREYS, size=(2, len(weights_RC)))
    if not len(weight_L):
        return math.nan, prior_2R[0] / prior_2R.sum(axis=0)
    size = weights_RC.shape[1]
    true_C = np.bincount(cluster_L, weight_L * truth_L, size)
    all_C = np.bincount(cluster_L, weight_L, size)
    # A label of the prior weighs as one of those that the sample is worth (Kish 1965): more than a
    # label and less than a cluster of them (geometric mean), as labels of a cluster are related.
    unit = math.sqrt((weight_L**2).sum() * (all_C**2).sum()) / all_C.sum()
    true_R = weights_RC @ true_C + unit * prior_2R[0]
    all_R = weights_RC @ all_C + unit * prior_2R.sum(axis=0)
    return float(true_C.sum() / all_C.sum()), true_R / all_R


def cluster_weights(clusters: int, resamples: int, seed: int) -> Float[np.ndarray, "R C"]:
    """The weights of C clusters in R resamples of a Bayesian bootstrap, before normalisation."""
    return np.random.default_rng(seed).gamma(1.0, size=(resamples, clusters))
