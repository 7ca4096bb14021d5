"""Newton's method in float64 on the host: what float32 leaves of the way to a probe's minimum.

Where the penalty is weak, float32 sums over rows are too coarse for decision values to 1e-3. From
where they lead, one step of Newton or two arrive. At the minimum weights are sums of the rows that
are trained on, z' a, so that only inner products of rows are needed, whatever the width, and all
strengths of a fold share them (kernel logistic regression; Rasmussen and Williams 2006, 3.4).
"""

import numpy as np
from jaxtyping import Bool, Float

_STEPS, _HALVINGS = 100, 40
_EQUAL = 1e-7  # rows that differ by no more of their size are the same row
_CLOSE = 1e-3  # Newton's steps converge by squares: behind one as small nothing is left


def refine(
    x_ND: Float[np.ndarray, "N D"],
    sign_N: Float[np.ndarray, " N"],
    train_FN: Bool[np.ndarray, "F N"],
    strengths_C: Float[np.ndarray, " C"],
    weights_FCD: Float[np.ndarray, "F C D"],
    bias_FC: Float[np.ndarray, "F C"],
) -> tuple[Float[np.ndarray, "F C D"], Float[np.ndarray, "F C"], bool]:
    """The minima that `fit_logistic` wants, from weights that are near; and if all were reached.

    Args:
        x_ND: the rows of a slice, as they are, float64.
        sign_N: 1 or -1, the class of each row.
        train_FN: the rows that each fold trains on.
        strengths_C: inverse strengths of the penalty.
        weights_FCD: where to start, in the units of x.
        bias_FC: the same.
    """
    weights_FCD, bias_FC = weights_FCD.astype(np.float64), bias_FC.astype(np.float64)
    reached = True
    for f, train_N in enumerate(train_FN):
        mean_D = x_ND[train_N].mean(axis=0)
        z_ND = x_ND - mean_D
        scale = np.sqrt((z_ND[train_N] ** 2).mean())
        if scale <= _EQUAL * np.abs(x_ND).max():
            scale = 1.0
        z_ND /= scale
        gram_NM, sign_M = z_ND @ z_ND[train_N].T, sign_N[train_N].astype(np.float64)
        for c, strength in enumerate(strengths_C.astype(np.float64)):
            bias = bias_FC[f, c] + mean_D @ weights_FCD[f, c]
            logits_N = scale * (z_ND @ weights_FCD[f, c]) + bias
            a_M, bias, done = _descend(gram_NM, train_N, sign_M, strength, logits_N)
            reached &= done
            weights_FCD[f, c] = a_M @ z_ND[train_N] / scale
            bias_FC[f, c] = bias - mean_D @ weights_FCD[f, c]
    return weights_FCD, bias_FC, reached


def _descend(gram_NM, train_N, sign_M, strength, logits_N):
    """The minimum of one fold at one strength, as sums of rows; and whether it was reached."""
    gram_MM = gram_NM[train_N]

    def loss(a_M, bias, logits_N):
        logits_M = logits_N[train_N]
        sure_M = np.logaddexp(0, -sign_M * logits_M)
        return strength * sure_M.sum() + a_M @ (logits_M - bias) / 2

    # Sums of rows that the start may not be: the first step needs its logits only.
    a_M, bias, here = np.zeros(len(sign_M)), 0.0, strength * len(sign_M) * np.log(2)
    for step in range(_STEPS):
        to_M, to_bias = _newton(gram_MM, sign_M, strength, logits_N[train_N])
        to_N, length = gram_NM @ to_M + to_bias, 1.0
        if step == 0:
            if not loss(to_M, to_bias, to_N) <= here:  # float32 went astray: start from nothing
                logits_N = np.zeros(len(logits_N))
                continue
            moved = to_M, to_bias, to_N
        for _ in range(_HALVINGS if step else 0):
            moved = tuple(
                old + length * (new - old)
                for old, new in ((a_M, to_M), (bias, to_bias), (logits_N, to_N))
            )
            if loss(*moved) <= here * (1 + 1e-12):
                break
            length /= 2
        far = np.abs(moved[2] - logits_N).max()
        a_M, bias, logits_N = moved
        here = loss(*moved)
        if length == 1 and far <= _CLOSE:
            return a_M, bias, True
    return a_M, bias, False


def _newton(gram_MM, sign_M, strength, logits_M):
    """Where Newton's step leads from some logits: sums of rows, and the bias.

    With C the curvature of each row's loss the sums a and the bias solve a + C (G a + bias) =
    pull + C logits, and sum(a) = 0.
    """
    wrong_M = (1 - np.tanh(sign_M * logits_M / 2)) / 2
    pull_M, curvature_M = strength * sign_M * wrong_M, strength * wrong_M * (1 - wrong_M)
    # Rows may all be sure, and then curve nothing: the least number keeps the bias where it is.
    root_M = np.sqrt(curvature_M + 1e-12 * strength)
    between_MM = root_M[:, None] * gram_MM * root_M
    between_MM[np.diag_indices_from(between_MM)] += 1
    right_M2 = np.stack([pull_M / root_M + root_M * logits_M, root_M], axis=1)
    free_M, per_bias_M = (root_M[:, None] * np.linalg.solve(between_MM, right_M2)).T
    bias = free_M.sum() / per_bias_M.sum()
    return free_M - bias * per_bias_M, bias
