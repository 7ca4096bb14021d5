"""Newton's method in float64 on the host: what float32 leaves of the way to a probe's minimum.

Where the penalty is weak, float32 sums over rows are too coarse for decision values to 1e-3. From
where they lead, one step of Newton or two arrive. Most probes need none, which is seen without a
Hessian: the penalty curves the loss by 1 at least, so weights are as near as the gradient is small.
"""

import numpy as np
from jaxtyping import Bool, Float

_STEPS, _HALVINGS = 100, 40
_EQUAL = 1e-7  # rows that differ by no more of their size are the same row
_NEAR = 5e-4  # decision values that are surely as near need no step
_CLOSE = 1e-4  # Newton's steps converge by squares: behind one as small nothing is left


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
        x_ND: the rows of a slice, as they are.
        sign_N: 1 or -1, the class of each row.
        train_FN: the rows that each fold trains on.
        strengths_C: inverse strengths of the penalty.
        weights_FCD: where to start, in the units of x.
        bias_FC: the same.
    """
    middle_D = x_ND.mean(axis=0, dtype=np.float64)
    # The penalty keeps weights in the span of the rows: no more axes than rows are needed.
    axes_DK, rows_KN = np.linalg.qr((x_ND - middle_D).T)
    x_NK = rows_KN.T
    weights_FCD, bias_FC = weights_FCD.astype(np.float64), bias_FC.astype(np.float64)
    reached = True
    for f, train_N in enumerate(train_FN):
        x_MK, sign_M = x_NK[train_N], sign_N[train_N].astype(np.float64)
        mean_K = x_MK.mean(axis=0)
        scale = np.sqrt(((x_MK - mean_K) ** 2).sum() / x_MK.shape[0] / x_ND.shape[1])
        if scale <= _EQUAL * np.abs(x_ND).max():
            scale = 1.0
        z_NP = np.pad((x_NK - mean_K) / scale, ((0, 0), (0, 1)), constant_values=1)
        for c, strength in enumerate(strengths_C.astype(np.float64)):
            w_K = axes_DK.T @ weights_FCD[f, c]
            bias = bias_FC[f, c] + middle_D @ weights_FCD[f, c] + mean_K @ w_K
            w_P, done = _descend(np.append(w_K * scale, bias), z_NP, train_N, sign_M, strength)
            reached &= done
            w_K = w_P[:-1] / scale
            weights_FCD[f, c] = axes_DK @ w_K
            bias_FC[f, c] = w_P[-1] - mean_K @ w_K - middle_D @ weights_FCD[f, c]
    return weights_FCD, bias_FC, reached


def _descend(w_P, z_NP, train_N, sign_M, strength) -> tuple[np.ndarray, bool]:
    """The minimum of one fold's loss at one strength, and whether it was reached."""
    z_MP, reach = z_NP[train_N], np.linalg.norm(z_NP, axis=1).max()
    keep_P = np.ones(len(w_P))
    keep_P[-1] = 0  # the bias is free

    def loss(logits_M, w_P):
        return strength * np.logaddexp(0, -sign_M * logits_M).sum() + keep_P @ w_P**2 / 2

    if not loss(z_MP @ w_P, w_P) <= loss(np.zeros(len(z_MP)), np.zeros(len(w_P))):
        w_P = np.zeros(len(w_P))  # float32 went astray
    for _ in range(_STEPS):
        logits_M = z_MP @ w_P
        wrong_M = (1 - np.tanh(sign_M * logits_M / 2)) / 2
        curvature_M = strength * wrong_M * (1 - wrong_M)
        gradient_P = keep_P * w_P - strength * (sign_M * wrong_M) @ z_MP
        # The bias is curved by the rows alone.
        if np.linalg.norm(gradient_P) * reach <= _NEAR * min(1.0, curvature_M.sum()):
            return w_P, True
        hessian_PP = (z_MP.T * curvature_M) @ z_MP + np.diag(keep_P)
        hessian_PP[-1, -1] += 1e-9 * strength  # rows may all be sure, and then curve nothing
        move_P = -np.linalg.solve(hessian_PP, gradient_P)
        turn_M, length, here = z_MP @ move_P, 1.0, loss(logits_M, w_P)
        for _ in range(_HALVINGS):
            if loss(logits_M + length * turn_M, w_P + length * move_P) <= here * (1 + 1e-12):
                break
            length /= 2
        w_P = w_P + length * move_P
        if length == 1 and np.abs(z_NP @ move_P).max() <= _CLOSE:
            return w_P, True
    return w_P, False
