"""How well scores separate two classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError


def auroc(
    score_XN: Float[np.ndarray, "X N"],
    y_N: Bool[np.ndarray, " N"] | Int[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"] | None = None,
    counts_RN: Float[np.ndarray, "R N"] | None = None,
) -> Float[np.ndarray, " X"] | Float[np.ndarray, "R X"]:
    """The share of pairs of a y = 1 and a y = 0 in which y = 1 scores higher, ties counting half.

    Scores of different folds come from different probes: only pairs within a fold are compared, and
    all these pairs count alike.

    Args:
        score_XN: X scores of each example.
        y_N: the class of each example, 0 or 1.
        fold_N: the fold of each example; one fold if left out.
        counts_RN: how often each example is in each of R bootstrap resamples.

    Returns:
        One AUROC per score; with `counts_RN` one per resample and score, NaN for a resample without
        a pair.

    Raises:
        InputError: a score is NaN, or no fold has both classes.
    """
    score_XN, positive_N = np.asarray(score_XN), np.asarray(y_N) == 1
    if np.isnan(score_XN).any():
        raise InputError("scores that are not a number have no AUROC")
    fold_N = np.zeros(len(positive_N), int) if fold_N is None else np.asarray(fold_N)
    # All terms are multiples of 1/2: float32 is exact up to 8 million pairs in a fold.
    weight_RN = np.ones((1, len(positive_N))) if counts_RN is None else counts_RN
    weight_RN = np.asarray(weight_RN, np.float32)
    wins_RX, pairs_R = np.zeros((len(weight_RN), len(score_XN))), np.zeros(len(weight_RN))
    has_pair = False
    for fold in np.unique(fold_N):
        ones_N, zeros_N = ((fold_N == fold) & (positive_N == label) for label in (True, False))
        has_pair |= bool(ones_N.any() and zeros_N.any())
        ones_RP, zeros_RQ = weight_RN[:, ones_N], weight_RN[:, zeros_N]
        pairs_R += ones_RP.sum(axis=1, dtype=np.float64) * zeros_RQ.sum(axis=1, dtype=np.float64)
        for x, score_N in enumerate(score_XN):
            one_P1, zero_Q = score_N[ones_N][:, None], score_N[zeros_N]
            win_PQ = (one_P1 > zero_Q) + np.float32(0.5) * (one_P1 == zero_Q)
            wins_RP = zeros_RQ @ win_PQ.T
            wins_RX[:, x] += np.einsum("rp,rp->r", wins_RP, ones_RP)
    if not has_pair:
        raise InputError("no fold has both classes: there is no AUROC")
    with np.errstate(invalid="ignore", divide="ignore"):
        area_RX = wins_RX / pairs_R[:, None]
    return area_RX[0] if counts_RN is None else area_RX


def tpr_at_fpr(
    score_N: Float[np.ndarray, " N"],
    y_N: Bool[np.ndarray, " N"] | Int[np.ndarray, " N"],
    fpr: float = 0.01,
) -> float:
    """True positive rate of the lowest threshold whose false positive rate is at most `fpr`.

    One threshold serves all examples: the scores of different folds must mean the same.

    Raises:
        InputError: a score is NaN, or one class is missing.
    """
    score_N, positive_N = np.asarray(score_N), np.asarray(y_N) == 1
    if np.isnan(score_N).any() or positive_N.all() or not positive_N.any():
        raise InputError("a true positive rate needs scores that are numbers, and both classes")
    zero_Q = np.sort(score_N[~positive_N])[::-1]
    allowed = int(fpr * len(zero_Q) + 1e-9)  # 0.29 of 100 are 29, not 28
    if allowed >= len(zero_Q):
        return 1.0
    return float(np.mean(score_N[positive_N] > zero_Q[allowed]))


def recalls_at_fpr(
    score_N: Float[np.ndarray, " N"],
    y_N: Bool[np.ndarray, " N"],
    counts_RN: Float[np.ndarray, "R N"],
    groups: Sequence[Bool[np.ndarray, " N"]],
    fpr: float = 0.01,
) -> Float[np.ndarray, "M R"]:
    """`tpr_at_fpr` in every bootstrap resample, on groups of positives with one threshold for all.

    The threshold is chosen anew in each resample, on all its negatives.

    Args:
        score_N: the score of each example.
        y_N: the class of each example.
        counts_RN: how often each example is in each of R resamples.
        groups: M masks; of each group the examples with y = 1 count.
        fpr: the largest false positive rate that is allowed, below 1.

    Returns:
        The recall of each group in each resample; NaN where it has no positive, or no negative.
    """
    order_Q = np.flatnonzero(~y_N)[np.argsort(-score_N[~y_N], kind="stable")]
    cumulative_RQ = np.cumsum(counts_RN[:, order_Q], axis=1)
    negatives_R = cumulative_RQ[:, -1] if len(order_Q) else np.zeros(len(counts_RN))
    allowed_R1 = np.floor(fpr * negatives_R + 1e-9)[:, None]
    threshold_R = np.full(len(counts_RN), np.nan)
    if len(order_Q):
        threshold_R = score_N[order_Q][np.argmax(cumulative_RQ > allowed_R1, axis=1)]
    recalls = []
    for group_N in groups:
        order_P = np.flatnonzero(y_N & group_N)
        order_P = order_P[np.argsort(score_N[order_P], kind="stable")]
        below_RP = np.zeros((len(counts_RN), len(order_P) + 1))
        np.cumsum(counts_RN[:, order_P], axis=1, out=below_RP[:, 1:])
        place_R = np.searchsorted(score_N[order_P], threshold_R, side="right")
        with np.errstate(invalid="ignore", divide="ignore"):
            caught_R = 1 - below_RP[np.arange(len(counts_RN)), place_R] / below_RP[:, -1]
        recalls.append(np.where(negatives_R > 0, caught_R, np.nan))
    return np.stack(recalls)
