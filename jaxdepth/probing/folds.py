"""Folds of whole groups, and cross-fitted probes: each example is scored by probes of other folds.

Of every fold's probes one is chosen: first its regularisation, then its slice. Both choices read
the fold's validation rows only, so a test row has no part in the number reported for it.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray
from jaxdepth.probing.fit import LinearProbes, decide, fit_logistic
from jaxdepth.stats.ranking import auroc


class CrossFitted(NamedTuple):
    """For every slice, the probe chosen in each fold, and the scores of that fold's test rows."""

    score_GN: Float[np.ndarray, "G N"]  # decision values; comparable only within a fold
    strength_GF: Float[np.ndarray, "G F"]
    validation_GF: Float[np.ndarray, "G F"]  # AUROC
    weights_GFD: Float[np.ndarray, "G F D"]
    bias_GF: Float[np.ndarray, "G F"]


def make_folds(
    groups_N: Sequence[Hashable],
    y_N: Bool[np.ndarray, " N"] | Int[np.ndarray, " N"],
    count: int = 5,
    seed: int = 0,
) -> Int[np.ndarray, " N"]:
    """The fold of each example, 0..count-1, with every group whole.

    The largest groups are dealt first, each to the fold that then has the most even share of every
    class; `seed` orders groups of one size.

    Raises:
        InputError: a class has fewer groups than there are folds, or groups are so uneven that a
            fold is without a class.
    """
    y_N = np.asarray(y_N)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups_N))}
    number_N = np.array([numbers[group] for group in groups_N])
    if number_N.shape != y_N.shape:
        raise InputError(f"{len(number_N)} groups for labels of shape {y_N.shape}")
    classes, class_N = np.unique(y_N, return_inverse=True)
    size_MK = np.zeros((len(numbers), len(classes)))
    np.add.at(size_MK, (number_N, class_N), 1)
    for label, groups in zip(classes, (size_MK > 0).sum(axis=0), strict=True):
        if groups < count:
            raise InputError(
                f"class {label} has {groups} groups for {count} folds: take at most {groups} folds"
            )

    shuffled_M = np.random.default_rng(seed).permutation(len(numbers))
    order_M = shuffled_M[np.argsort(-size_MK[shuffled_M].sum(axis=1), kind="stable")]
    share_MK = size_MK / size_MK.sum(axis=0)
    dealt_FK, fold_M = np.zeros((count, len(classes))), np.zeros(len(numbers), int)
    for group in order_M:
        # By how much the sum of squared shares grows: it grows least in the emptiest fold.
        growth_F = (share_MK[group] * (2 * dealt_FK + share_MK[group])).sum(axis=1)
        fold_M[group] = np.argmin(growth_F.round(12))  # on ties the first, whatever the rounding
        dealt_FK[fold_M[group]] += share_MK[group]
    if (dealt_FK == 0).any():
        raise InputError(f"groups are too uneven for {count} folds with every class: take fewer")
    return fold_M[number_N]


def cross_fit(
    x_GND: Float[AnyArray, "G N D"],
    y_N: Bool[np.ndarray, " N"] | Int[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"],
    strengths_C: Sequence[float],
    fit: Callable[..., LinearProbes] = fit_logistic,
) -> CrossFitted:
    """Scores for every example by probes that neither trained on it nor were chosen on it.

    Fold f is tested by probes that train on all folds but f and f + 1 (after the last the first).
    Fold f + 1 chooses the strength, for each slice: the highest AUROC, on ties the strongest
    regularisation.

    Args:
        x_GND: features of N examples in G slices.
        y_N: the class of each example, 0 or 1.
        fold_N: from `make_folds`.
        strengths_C: as in `fit_logistic`.
        fit: `fit_logistic` or `fit_difference`.

    Raises:
        InputError: fewer than 3 folds, a fold without both classes, or as in `fit`.
    """
    y_N, fold_N = np.asarray(y_N), np.asarray(fold_N)
    folds = np.arange(fold_N.max() + 1)
    if len(folds) < 3:
        raise InputError(f"{len(folds)} folds: 3 are needed to train, to choose and to test")
    strength_C = np.sort(np.asarray(strengths_C, np.float64))
    test_FN, choose_FN = fold_N == folds[:, None], fold_N == ((folds + 1) % len(folds))[:, None]
    probes = fit(x_GND, y_N, ~(test_FN | choose_FN), strength_C)
    score_GFCN = decide(probes, x_GND)
    validation_GFC = np.stack(
        [
            auroc(score_GCN.reshape(-1, len(y_N))[:, rows_N], y_N[rows_N])
            .reshape(score_GCN.shape[:2])
            for score_GCN, rows_N in zip(score_GFCN.swapaxes(0, 1), choose_FN, strict=True)
        ],
        axis=1,
    )  # fmt: skip
    best_GF = validation_GFC.argmax(axis=2)
    slice_G1 = np.arange(len(best_GF))[:, None]
    best = (slice_G1, folds, best_GF)
    return CrossFitted(
        score_GFCN[slice_G1, fold_N, best_GF[:, fold_N], np.arange(len(y_N))],
        strength_C[best_GF],
        validation_GFC[best],
        probes.weights_GFCD[best],
        probes.bias_GFC[best],
    )


def choose_slice(
    validation_GF: Float[np.ndarray, "G F"],
    score_GN: Float[np.ndarray, "G N"],
    fold_N: Int[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " F"]]:
    """Scores by the slice that validates best in each fold, on ties the first; and that slice."""
    slice_F = np.argmax(validation_GF, axis=0)
    return score_GN[slice_F[fold_N], np.arange(len(fold_N))], slice_F
