"""Linear probes of every slice of the activations at once."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray
from jaxdepth.probing.newton import minimise


class LinearProbes(NamedTuple):
    """For rows in their own units: a decision value is x @ w + b, above 0 for y = 1."""

    weights_GFCD: Float[np.ndarray, "G F C D"]
    bias_GFC: Float[np.ndarray, "G F C"]


def fit_logistic(
    x_GND: Float[AnyArray, "G N D"],
    y_N: Bool[np.ndarray, " N"] | Int[np.ndarray, " N"],
    train_FN: Bool[np.ndarray, "F N"],
    strengths_C: Sequence[float],
) -> LinearProbes:
    """L2-regularised logistic regression for every slice, fold and strength.

    The minimum of scikit-learn's `LogisticRegression(C=c)`, c * (sum of log losses) + |w|^2 / 2
    with a free intercept, on (x - mean) / s: the mean of the fold's training rows, and one number s
    for all features, the root of their mean variance there.

    Args:
        x_GND: features of N examples in G slices, of any floating type; computed in float64.
        y_N: the class of each example, 0 or 1.
        train_FN: which examples each fold trains on.
        strengths_C: inverse strengths c of the regularisation.

    Raises:
        InputError: shapes do not fit, a number is not finite, a strength is not above 0, a fold
            trains on one class only, or a probe does not converge.
    """
    _check(x_GND, y_N, train_FN)
    strength_C = np.asarray(strengths_C, np.float64)
    if strength_C.ndim != 1 or not ((strength_C > 0) & np.isfinite(strength_C)).all():
        raise InputError(f"strengths {strength_C.tolist()} are not a list of numbers above 0")
    sign_N = np.where(np.asarray(y_N) == 1, 1.0, -1.0)
    weights_GFCD, bias_GFC = [], []
    for g, x_ND in enumerate(np.asarray(x_GND)):
        weights_FCD, bias_FC, converged = minimise(
            x_ND.astype(np.float64), sign_N, np.asarray(train_FN), strength_C
        )
        if not converged:
            raise InputError(
                f"a logistic probe of slice {g} did not converge: take strengths below "
                f"{strength_C.max():g}"
            )
        weights_GFCD.append(weights_FCD.astype(np.float32))
        bias_GFC.append(bias_FC.astype(np.float32))
    return LinearProbes(np.stack(weights_GFCD), np.stack(bias_GFC))


def fit_difference(
    x_GND: Float[AnyArray, "G N D"],
    y_N: Bool[np.ndarray, " N"] | Int[np.ndarray, " N"],
    train_FN: Bool[np.ndarray, "F N"],
    strengths_C: Sequence[float] = (1.0,),
) -> LinearProbes:
    """The difference of the training rows' class means; decision value 0 midway between them.

    Arguments and errors as `fit_logistic`; nothing is regularised, every strength gives the same.
    """
    _check(x_GND, y_N, train_FN)
    x_GND = jnp.asarray(x_GND).astype(jnp.float32)
    mean_of_class = []
    for label in (0, 1):
        rows_FN = np.asarray(train_FN) & (np.asarray(y_N) == label)
        share_FN = rows_FN / rows_FN.sum(axis=1, keepdims=True, dtype=np.float32)
        mean_of_class.append(jnp.matmul(share_FN, x_GND, precision=jax.lax.Precision.HIGHEST))
    zero_GFD, one_GFD = mean_of_class
    weights_GFD = one_GFD - zero_GFD
    bias_GF = -(weights_GFD * (zero_GFD + one_GFD) / 2).sum(axis=2)
    count = len(strengths_C)
    return LinearProbes(
        np.repeat(np.asarray(weights_GFD)[:, :, None], count, axis=2),
        np.repeat(np.asarray(bias_GF)[:, :, None], count, axis=2),
    )


def decide(
    probes: LinearProbes, x_GND: Float[AnyArray, "G N D"] | Float[np.ndarray, "G N D"]
) -> Float[np.ndarray, "G F C N"]:
    """Decision values of every probe for the examples of its slice, float32.

    Summed in float64, on the host: where a few features dwarf those that a probe reads, as they do
    in residual streams, sums in float32 are off by more than the probe itself.
    """
    decisions = []
    for weights_FCD, bias_FC, x_ND in zip(*probes, x_GND, strict=True):
        weights_FCD, x_ND = (np.asarray(a, np.float64) for a in (weights_FCD, x_ND))
        value_FCN = weights_FCD @ x_ND.T + np.asarray(bias_FC)[..., None]
        decisions.append(value_FCN.astype(np.float32))
    return np.stack(decisions)


def _check(x_GND, y_N, train_FN) -> None:
    """Raise the InputErrors that `fit_logistic` names, except those of strengths."""
    y_N, train_FN = np.asarray(y_N), np.asarray(train_FN)
    if np.ndim(x_GND) != 3 or y_N.shape != np.shape(x_GND)[1:2] or train_FN.ndim != 2:
        raise InputError(
            f"features of shape {np.shape(x_GND)}, labels of {y_N.shape}, folds of"
            f" {train_FN.shape}; expected (G, N, D), (N,) and (F, N)"
        )
    if train_FN.dtype != bool or train_FN.shape[1] != len(y_N):
        raise InputError(f"folds of {train_FN.dtype} {train_FN.shape}; expected bool, (F, N)")
    if not np.isin(y_N, (0, 1)).all():
        raise InputError("labels other than 0 and 1")
    for fold, rows_N in enumerate(train_FN):
        if len(np.unique(y_N[rows_N])) < 2:
            raise InputError(f"fold {fold} does not train on both classes")
    if not jnp.isfinite(x_GND).all():
        raise InputError("features that are not finite")
