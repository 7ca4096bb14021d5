"""Newton's method for logistic regression, in float64 on the host.

At the minimum the weights are sums of the training rows, z' a, so only inner products of rows are
needed, whatever the width, and all strengths of a fold share them (kernel logistic regression;
Rasmussen and Williams 2006, 3.4).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_STEPS, _HALVINGS = 100, 40
_EQUAL = 1e-7  # rows that differ by no more of their size are the same row
_CLOSE = (
    1e-3  # of logits; Newton's method converges quadratically: after such a step no error is left
)


class _Probe(NamedTuple):
    """Coefficients of the M training rows, and the logits of all N rows."""

    sums_M: Float[np.ndarray, " M"]
    bias: float
    logits_N: Float[np.ndarray, " N"]


def minimise(
    x_ND: Float[np.ndarray, "N D"],
    sign_N: Float[np.ndarray, " N"],
    train_FN: Bool[np.ndarray, "F N"],
    strengths_C: Float[np.ndarray, " C"],
) -> tuple[Float[np.ndarray, "F C D"], Float[np.ndarray, "F C"], bool]:
    """The logistic probes of one slice, as `fit_logistic` defines them.

    Strengths are solved from the smallest up, each from the minimum of the one before.

    Args:
        x_ND: the rows of a slice in their own units, float64.
        sign_N: 1 or -1, the class of each row.
        train_FN: the rows that each fold trains on.
        strengths_C: inverse strengths of the penalty, in any order.

    Returns:
        Weights and biases in the units of x, and whether all problems converged.
    """
    weights_FCD = np.empty((len(train_FN), len(strengths_C), x_ND.shape[1]))
    bias_FC = np.empty(weights_FCD.shape[:2])
    converged = True
    for f, train_N in enumerate(train_FN):
        mean_D = x_ND[train_N].mean(axis=0)
        z_ND = x_ND - mean_D
        scale = np.sqrt((z_ND[train_N] ** 2).mean())
        if scale <= _EQUAL * np.abs(x_ND).max():
            scale = 1.0
        z_ND /= scale
        gram_NM = z_ND @ z_ND[train_N].T
        probe = _Probe(np.zeros(gram_NM.shape[1]), 0.0, np.zeros(len(x_ND)))
        for c in np.argsort(strengths_C, kind="stable"):
            probe, done = _descend(probe, gram_NM, train_N, sign_N[train_N], strengths_C[c])
            converged &= done
            weights_FCD[f, c] = probe.sums_M @ z_ND[train_N] / scale
            bias_FC[f, c] = probe.bias - mean_D @ weights_FCD[f, c]
    return weights_FCD, bias_FC, converged


def _descend(
    probe: _Probe,
    gram_NM: Float[np.ndarray, "N M"],
    train_N: Bool[np.ndarray, " N"],
    sign_M: Float[np.ndarray, " M"],
    strength: float,
) -> tuple[_Probe, bool]:
    """The minimum of one fold at one strength from a start, and whether it was reached.

    A step that does not lower the loss is halved: the loss is convex, so damped steps arrive from
    anywhere.
    """
    gram_MM = gram_NM[train_N]

    def loss(probe: _Probe) -> float:
        logits_M = probe.logits_N[train_N]
        losses_M = np.logaddexp(0, -sign_M * logits_M)
        return strength * losses_M.sum() + probe.sums_M @ (logits_M - probe.bias) / 2

    value = loss(probe)
    for _ in range(_STEPS):
        sums_M, bias = _newton_step(gram_MM, sign_M, strength, probe.logits_N[train_N])
        target = _Probe(sums_M, bias, gram_NM @ sums_M + bias)
        length = 1.0
        for _ in range(_HALVINGS):
            moved = _Probe(
                probe.sums_M + length * (target.sums_M - probe.sums_M),
                probe.bias + length * (target.bias - probe.bias),
                probe.logits_N + length * (target.logits_N - probe.logits_N),
            )
            if loss(moved) <= value * (1 + 1e-12):
                break
            length /= 2
        change = np.abs(moved.logits_N - probe.logits_N).max()
        probe, value = moved, loss(moved)
        if length == 1 and change <= _CLOSE:
            return probe, True
    return probe, False


def _newton_step(gram_MM, sign_M, strength, logits_M):
    """Where Newton's step leads from some logits: sums of rows, and the bias.

    With C the curvature of each row's loss the sums a and the bias solve a + C (G a + bias) =
    pull + C logits, and sum(a) = 0.
    """
    wrong_M = (1 - np.tanh(sign_M * logits_M / 2)) / 2
    pull_M, curvature_M = strength * sign_M * wrong_M, strength * wrong_M * (1 - wrong_M)
    # If every row is certain, curvatures are 0: the smallest number keeps the bias where it is.
    root_M = np.sqrt(curvature_M + 1e-12 * strength)
    system_MM = root_M[:, None] * gram_MM * root_M
    system_MM[np.diag_indices_from(system_MM)] += 1
    right_M2 = np.stack([pull_M / root_M + root_M * logits_M, root_M], axis=1)
    free_M, per_bias_M = (root_M[:, None] * np.linalg.solve(system_MM, right_M2)).T
    bias = free_M.sum() / per_bias_M.sum()
    return free_M - bias * per_bias_M, bias
