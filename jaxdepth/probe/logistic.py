"""The solver of the logistic probes: thousands of small convex problems that share their rows.

The minimum is the one right answer. To come close to it in float32, and quickly:

- A slice is rotated once to the principal axes of its rows. The penalty does not see a rotation, so
  the minimum stays what it is for every fold, but the Hessian comes close to its diagonal.
- The standardisation of a fold is folded into the coefficients: all folds and strengths read the
  same rows and are columns of one product.
- Optax's L-BFGS steps in a metric: the Hessian of the leading axes, the diagonal of the others. The
  curvature falls as probes become sure, so the metric is taken anew every few steps.
- Optax's line searches evaluate the loss, a product each time, and near the end float32 cannot tell
  its differences from noise. But along a line the logits are linear: here the length of a step is
  found from the slope alone, by two vectors and without any product.
- Slices go one after the other, each until its last probe has converged as far as float32 can
  tell; `newton.py` does the rest.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_LBFGS = optax.scale_by_lbfgs(memory_size=10)
_OVER_TASKS = optax.ScaleByLBFGSState(None, 0, 0, 0, 0, 0)  # they share the count of steps
_LEADING = 128  # axes whose Hessian is taken in full
_STEPS, _ROUNDS = 20, 4  # steps in one metric; how many metrics at most
_CLOSE = 1e-3  # how far a step may still move any row's logit


class _Task(NamedTuple):
    """One fold at one strength; its features are (x - mean) / scale, the last of them is 1."""

    weight_N: Float[Array, " N"]  # of each row's loss: the strength, 0 outside of training
    mean_P: Float[Array, " P"]
    scale_P: Float[Array, " P"]


@jax.jit
def minimise_slices(x_GND, sign_N, train_FN, strengths_C):
    """Weights (G, F, C, D) and biases (G, F, C) for the rows as they are.

    Args:
        x_GND: features, of any floating type.
        sign_N: float32 1 or -1, the class of each row.
        train_FN: float32 1 for the rows a fold trains on, 0 for others.
        strengths_C: float32 inverse strengths of the penalty.
    """
    return jax.lax.map(lambda x_ND: _fit_slice(x_ND, sign_N, train_FN, strengths_C), x_GND)


def _fit_slice(x_ND, sign_N, train_FN, strengths_C):
    """Weights (F, C, D) and biases (F, C)."""
    x_ND = x_ND.astype(jnp.float32)
    middle_D = x_ND.mean(axis=0)
    x_NK, axes_DK = _rotate(x_ND - middle_D)
    x_NP = jnp.pad(x_NK, ((0, 0), (0, 1)), constant_values=1)

    share_FN = train_FN / train_FN.sum(axis=1, keepdims=True)
    mean_FK = _product(share_FN, x_NK)
    variance_F = _product(share_FN, (x_NK**2).sum(axis=1)) - (mean_FK**2).sum(axis=1)
    scale_F = jnp.sqrt(jnp.maximum(variance_F, 0) / x_ND.shape[1])
    scale_F = jnp.where(scale_F > 0, scale_F, 1)
    scale_FP = jnp.ones((len(scale_F), x_NP.shape[1])).at[:, :-1].set(scale_F[:, None])
    mean_FP = jnp.pad(mean_FK, ((0, 0), (0, 1)))

    each = len(strengths_C)
    tasks = _Task(
        (train_FN[:, None] * strengths_C[:, None]).reshape(-1, len(sign_N)),
        jnp.repeat(mean_FP, each, axis=0),
        jnp.repeat(scale_FP, each, axis=0),
    )
    w_BP = _minimise(tasks, x_NP, sign_N)
    w_BP = jax.vmap(_unscaled)(tasks, w_BP)
    weights_BD = _product(w_BP[:, :-1], axes_DK.T)
    bias_B = w_BP[:, -1] - _product(weights_BD, middle_D)
    shape = (len(train_FN), each)
    return weights_BD.reshape(*shape, -1), bias_B.reshape(shape)


def _rotate(x_ND):
    """Rows along their principal axes, and these axes: orthonormal to rounding, whatever the rank.

    Of many more features than rows the span comes first; of few more that would only cost time. An
    SVD is not needed: only the axes must be exact, as rotations, and the spread along them is not.
    """
    if x_ND.shape[1] > 2 * x_ND.shape[0]:
        span_DN, rows_NN = jnp.linalg.qr(x_ND.T)
        x_NK, axes_NK = _rotate(rows_NN.T)
        return x_NK, _product(span_DN, axes_NK)
    axes_DK = jnp.linalg.eigh(_product(x_ND.T, x_ND))[1]
    return _product(x_ND, axes_DK), axes_DK


def _minimise(tasks, x_NP, sign_N):
    """Coefficients (B, P) of B tasks."""
    over_tasks = partial(jax.vmap, in_axes=(0, 0, None), out_axes=0)
    step = jax.vmap(
        partial(_step, x_NP=x_NP, sign_N=sign_N),
        in_axes=(0, 0, 0, 0, _OVER_TASKS, 0),
        out_axes=(0, 0, _OVER_TASKS, 0),
    )

    def again(carry):
        number, still_B, w_BP = carry
        metrics = over_tasks(_metric)(tasks, w_BP, x_NP)
        v_BP = jax.vmap(_to_metric)(metrics, w_BP)
        at = over_tasks(_reads)(tasks, w_BP, x_NP)
        state = jax.vmap(_LBFGS.init, out_axes=_OVER_TASKS)(v_BP)

        def goes_on(carry):
            return (carry[0] < _STEPS) & ~carry[-1].all()

        def body(carry):
            steps, *now = carry
            return steps + 1, *step(tasks, metrics, *now)

        start = 0, v_BP, at, state, still_B
        _, v_BP, *_, converged_B = jax.lax.while_loop(goes_on, body, start)
        # In the first metric steps are too short: where probes become sure, curvature falls.
        moved_BP = jax.vmap(_from_metric)(metrics, v_BP)
        w_BP = jnp.where(still_B[:, None], w_BP, moved_BP)
        return number + 1, converged_B & (number > 0), w_BP

    w_BP = jnp.zeros((len(tasks.weight_N), x_NP.shape[1]))
    _, _, w_BP = jax.lax.while_loop(
        lambda carry: (carry[0] < _ROUNDS) & ~carry[1].all(),
        again,
        (0, jnp.zeros(len(w_BP), bool), w_BP),
    )
    return w_BP


def _unscaled(task, w_P):
    """Coefficients of the rows themselves, from those of a task's features."""
    u_P = w_P / task.scale_P
    return u_P.at[-1].add(-_product(task.mean_P, u_P))


def _reads(task, w_P, x_NP):
    """What the loss is a function of: logits, and the coefficients that are penalised."""
    return _product(x_NP, _unscaled(task, w_P)), w_P[:-1]


def _metric(task, w_P, x_NP):
    """Curvature at w as a metric: the Hessian's diagonal, and its Cholesky factor where it leads.

    The diagonal leaves the fold's own mean out: that needs no further rows.
    """
    p_N = jax.nn.sigmoid(_reads(task, w_P, x_NP)[0])
    curvature_N = task.weight_N * p_N * (1 - p_N)
    diagonal_P = _product(curvature_N, x_NP**2) / task.scale_P**2
    root_P = jnp.sqrt(diagonal_P.at[:-1].add(1))
    z_NQ = ((x_NP - task.mean_P) / (task.scale_P * root_P))[:, -_LEADING:]
    hessian_QQ = _product((z_NQ * curvature_N[:, None]).T, z_NQ)
    penalty_Q = (root_P**-2).at[-1].set(0)[-_LEADING:]
    hessian_QQ += jnp.diag(penalty_Q + 1e-5)  # a metric need not be exact, but positive
    return root_P, jnp.linalg.cholesky(hessian_QQ)


def _from_metric(metric, v_P):
    root_P, factor_QQ = metric
    leading_Q = jax.lax.linalg.triangular_solve(
        factor_QQ, v_P[-len(factor_QQ) :, None], left_side=True, lower=True, transpose_a=True
    )[:, 0]
    return jnp.concatenate([v_P[: -len(factor_QQ)], leading_Q]) / root_P


def _to_metric(metric, w_P):
    root_P, factor_QQ = metric
    v_P = w_P * root_P
    return v_P.at[-len(factor_QQ) :].set(_product(factor_QQ.T, v_P[-len(factor_QQ) :]))


def _step(task, metric, v_P, at, state, converged, x_NP, sign_N):
    """One step of L-BFGS in the metric; a task that has converged stays where it is."""

    def reads(v_P):
        return _reads(task, _from_metric(metric, v_P), x_NP)

    def pull(logits_N):
        """The loss's slope in the logits, and its curvature."""
        wrong_N = jax.nn.sigmoid(-sign_N * logits_N)
        return -task.weight_N * sign_N * wrong_N, task.weight_N * wrong_N * (1 - wrong_N)

    logits_N, w_K = at
    (gradient_P,) = jax.linear_transpose(reads, v_P)((pull(logits_N)[0], w_K))
    back_P, state = _LBFGS.update(gradient_P, state, v_P)
    move_N, turn_K = reads(-back_P)
    # What is asked for; a gradient that small may be below float32's noise where curvature is high.
    converged |= jnp.abs(move_N).max() <= _CLOSE
    slope, bend = jnp.vdot(w_K, turn_K), jnp.vdot(turn_K, turn_K)

    # Newton's method for the length, within what the sign of the slope has bracketed.
    length, low, high = 1.0, 0.0, jnp.inf
    for _ in range(4):
        pull_N, curvature_N = pull(logits_N + length * move_N)
        slope_here = slope + length * bend + jnp.vdot(pull_N, move_N)
        bend_here = bend + jnp.vdot(curvature_N, move_N**2)
        low = jnp.where(slope_here <= 0, length, low)
        high = jnp.where(slope_here <= 0, high, length)
        newton = length - slope_here / jnp.where(bend_here > 0, bend_here, jnp.inf)
        between = jnp.where(jnp.isinf(high), 2 * low, (low + high) / 2)
        length = jnp.where((newton >= low) & (newton <= high), newton, between)
    length = jnp.where(converged, 0.0, length)
    at = logits_N + length * move_N, w_K + length * turn_K
    return v_P - length * back_P, at, state, converged
