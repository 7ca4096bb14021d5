"""Is refusal a sum or an OR of how strongly a layer represents each category of harm?

A category's direction is the mean of its prompts less that of the harmless ones, as for one
category in Arditi et al. 2024 (arXiv:2406.11717). A prompt with two categories distinguishes the
two: a sum counts both, an OR only the stronger.

Scores of single prompts are noisy. Noise flattens a regression on their sum more than one on their
largest, so an OR would win where refusal does add up. Both are therefore fitted to the mean scores
of prompts with the same categories (grouping, Wald 1940, Annals of Mathematical Statistics 11).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.stats.intervals import interval
from jaxdepth.stats.resampled import clusters_of


class OrTest(NamedTuple):
    """Held-out explained variance; the difference is OR minus sum, low and high its 95% bounds.

    The bounds are NaN where too few clusters were resampled.
    """

    sum: float
    or_: float
    difference: float
    low: float
    high: float


def category_directions(
    x_ND: Float[np.ndarray, "N D"],
    harmful_N: Bool[np.ndarray, " N"],
    category_NK: Bool[np.ndarray, "N K"],
) -> Float[np.ndarray, "K D"]:
    """Mean of each category's prompts minus the mean of the harmless ones.

    A prompt may have several categories and then counts in each.

    Raises:
        InputError: a category, or the harmless class, has no prompt.
    """
    count_K = category_NK.sum(axis=0)
    if harmful_N.all() or not count_K.all():
        raise InputError("no direction: a category, or the harmless class, has no prompt")
    mean_KD = category_NK.T.astype(np.float64) @ x_ND / count_K[:, None]
    return mean_KD - x_ND[~harmful_N].mean(axis=0, dtype=np.float64)


def cosines(directions_KD: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K K"]:
    """The cosine of every two directions; NaN for one that is zero."""
    with np.errstate(invalid="ignore"):
        unit_KD = directions_KD / np.linalg.norm(directions_KD, axis=1, keepdims=True)
    return unit_KD @ unit_KD.T


def category_scores(
    x_ND: Float[np.ndarray, "N D"],
    harmful_N: Bool[np.ndarray, " N"],
    category_NK: Bool[np.ndarray, "N K"],
    fold_N: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "N K"]:
    """Coefficients of each prompt on the category directions, which other folds provide.

    They are those of a least-squares fit of the prompt, minus the harmless mean, by all directions
    at once: a component that directions share is not counted in each of them.

    Raises:
        InputError: as `category_directions`, in the prompts outside one fold.
    """
    scores_NK = np.empty(category_NK.shape)
    for fold in np.unique(fold_N):
        rest_N = fold_N != fold
        directions_KD = category_directions(x_ND[rest_N], harmful_N[rest_N], category_NK[rest_N])
        harmless_D = x_ND[rest_N & ~harmful_N].mean(axis=0, dtype=np.float64)
        scores_NK[~rest_N] = (x_ND[~rest_N] - harmless_D) @ np.linalg.pinv(directions_KD)
    return scores_NK


def compare_or(
    score_NK: Float[np.ndarray, "N K"],
    category_NK: Bool[np.ndarray, "N K"],
    refusal_N: Float[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"],
    counts_RN: Float[np.ndarray, "R N"],
) -> OrTest:
    """Refusal by a sum, a + sum_k b_k s_k, and by an OR, a + max_k b_k s_k, on held-out prompts.

    s are mean scores of the prompts outside a fold with the same categories; prompts whose
    categories occur in one fold only are left out. Both have K + 1 coefficients, and agree where no
    prompt has two categories. OR wins if `low` is above 0, the sum if `high` is below.

    Args:
        score_NK: held-out scores, as of `category_scores`.
        category_NK: the categories of each prompt.
        refusal_N: refusal of each prompt, such as its log-odds.
        fold_N: the fold of each prompt; clusters must not be split.
        counts_RN: how often each prompt is in each of R bootstrap resamples of clusters.

    Raises:
        InputError: fewer than two folds.
    """
    if len(np.unique(fold_N)) < 2:
        raise InputError("a comparison on held-out prompts needs two folds")
    refusal_N = np.asarray(refusal_N, np.float64)
    group_N = np.unique(category_NK, axis=0, return_inverse=True)[1].reshape(-1)
    predicted_2N = np.full((2, len(refusal_N)), np.nan)
    for fold in np.unique(fold_N):
        train_N = fold_N != fold
        mean_NK = np.full(score_NK.shape, np.nan)
        for group in np.unique(group_N[train_N]):
            mean_NK[group_N == group] = score_NK[train_N & (group_N == group)].mean(axis=0)
        test_N = ~train_N & (np.isin(group_N, group_N[train_N]))
        offset, weights_K = _linear(mean_NK[train_N], refusal_N[train_N])
        predicted_2N[0, test_N] = offset + mean_NK[test_N] @ weights_K
        offset, weights_K = _strongest(mean_NK[train_N], refusal_N[train_N], weights_K)
        predicted_2N[1, test_N] = offset + (mean_NK[test_N] * weights_K).max(axis=1)

    kept_N = np.isfinite(predicted_2N).all(axis=0)
    y_N, error_2N = refusal_N[kept_N], (predicted_2N[:, kept_N] - refusal_N[kept_N]) ** 2
    counts_RN = np.concatenate([np.ones((1, kept_N.sum())), counts_RN[:, kept_N]])
    mean_R = counts_RN @ y_N / counts_RN.sum(axis=1)
    variance_R = counts_RN @ y_N**2 - counts_RN.sum(axis=1) * mean_R**2
    explained_2R = 1 - error_2N @ counts_RN.T / variance_R
    difference_R = explained_2R[1] - explained_2R[0]
    clusters, resampled_R1 = clusters_of(counts_RN[1:]), difference_R[1:, None]
    low, high = (bound_1[0] for bound_1 in interval(resampled_R1, clusters=clusters))
    return OrTest(*map(float, (*explained_2R[:, 0], difference_R[0], low, high)))


def _linear(features_NK, y_N):
    """Offset and weights of a least-squares fit."""
    fitted = np.linalg.lstsq(np.pad(features_NK, ((0, 0), (1, 0)), constant_values=1), y_N)[0]
    return fitted[0], fitted[1:]


def _strongest(s_NK, y_N, weights_K):
    """Offset and weights of a + max_k b_k s_k: refitted until each row's largest term stays."""
    best, offset, strongest_N = (np.inf, 0.0, weights_K), 0.0, None
    for _ in range(50):
        before_N, strongest_N = strongest_N, (s_NK * weights_K).argmax(axis=1)
        if before_N is not None and np.array_equal(before_N, strongest_N):
            break
        chosen_NK = np.eye(s_NK.shape[1])[strongest_N]
        offset, fitted_K = _linear(s_NK * chosen_NK, y_N)
        weights_K = np.where(chosen_NK.any(axis=0), fitted_K, weights_K)
        error = np.sum((y_N - offset - (s_NK * weights_K).max(axis=1)) ** 2)
        best = min(best, (error, offset, weights_K), key=lambda fit: fit[0])
    return best[1:]
