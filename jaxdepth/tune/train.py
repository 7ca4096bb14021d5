"""The training step: losses at exits, their gradient, and the optimizer's update."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.layer_scan import Backward
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain
from jaxdepth.model.tuned import Form, Params, attach
from jaxdepth.tune.loss import (
    Contrast,
    Parts,
    Targets,
    Weights,
    answer_logprobs,
    dpo_loss,
    supervised_loss,
)


class State(NamedTuple):
    """Training state."""

    step: Int[Array, ""]
    params: Params
    optimizer: optax.OptState


class Micro(NamedTuple):
    """A microbatch; those of a step are stacked on a leading axis."""

    targets: Targets
    weights: Weights
    keep_LB: Bool[AnyArray, "L B"] | None  # which layers each sequence runs; None runs all


class Losses(NamedTuple):
    """Losses of a step, in nats, and its gradient norm."""

    loss: Float[Array, ""]
    full: Float[Array, ""]  # the part at full depth
    early: Float[Array, ""]  # cross-entropy (or preference) at the exits before it
    distill: Float[Array, ""]  # divergence from full depth there
    grad_norm: Float[Array, ""]  # before it is clipped


LossOf = Callable[[Mistral, Mistral, Micro], tuple[Array, Parts]]


def make_optimizer(
    learning_rate: float, warmup: int, steps: int, weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """AdamW with clipping of the global gradient norm, on `schedule`."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule(learning_rate, warmup, steps), b2=0.99, weight_decay=weight_decay),
    )


def schedule(learning_rate: float, warmup: int, steps: int) -> optax.Schedule:
    """The learning rate by step: linear warm-up, then cosine decay to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1))


def supervised(
    distill: bool,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
    *,
    by_base: bool = False,
    contrast: Contrast | None = None,
) -> LossOf:
    """`supervised_loss` as a loss of the tuned model, the base and a microbatch."""

    def loss_of(tuned, base, micro):
        return supervised_loss(
            tuned,
            micro.targets,
            micro.weights,
            micro.keep_LB,
            distill=distill,
            base=base if by_base else None,
            contrast=contrast,
            backward=backward,
        )

    return loss_of


def preference(
    beta: float,
    chosen_weight: float,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> LossOf:
    """DPO at every weighted exit, with the base at the same exit as reference.

    The first half of the sequences is chosen, the second rejected; the weight of a pair is that of
    the chosen one's rows. The DPO loss also falls where both answers become less probable, the
    rejected one more so, and a model tuned to prefer refusals may come to refuse less (Razin et al.
    2024, arXiv:2410.08847). So the chosen answer's mean loss per token is added, `chosen_weight`
    times (Pang et al. 2024, arXiv:2404.19733).
    """

    def loss_of(tuned, base, micro):
        targets, weights = micro.targets, micro.weights
        B = targets.tokens_BS.shape[0]
        # Padding rows have no weight at full depth.
        counts_R = (weights.full_R > 0).astype(jnp.float32)
        exits_E = jnp.append(weights.exits_E, tuned.depth)
        weight_ER = jnp.concatenate([weights.text_EN, weights.full_R[None]])
        args = (targets, counts_R, exits_E)
        logp_EB = answer_logprobs(tuned, *args, micro.keep_LB, backward=backward)
        fixed_EB = jax.lax.stop_gradient(answer_logprobs(base, *args))
        of_sequence = functools.partial(
            jax.ops.segment_sum, segment_ids=targets.sequence_R, num_segments=B
        )
        pair_EP = 2 * jax.vmap(of_sequence)(weight_ER)[:, : B // 2]
        sides = (logp_EB[:, : B // 2], logp_EB[:, B // 2 :])
        bases = (fixed_EB[:, : B // 2], fixed_EB[:, B // 2 :])
        nll_EP = -sides[0] / of_sequence(counts_R)[: B // 2]
        loss_EP = dpo_loss(*sides, *bases, beta) + chosen_weight * nll_EP
        text_E = jnp.sum(pair_EP * loss_EP, axis=1)
        return jnp.sum(text_E), Parts(text_E[-1], text_E[:-1], jnp.zeros_like(text_E[:-1]))

    return loss_of


def make_step(
    form: Form,
    loss_of: LossOf,
    optimizer: optax.GradientTransformation,
    shardings: Any = None,
) -> Callable[[State, Mistral, Micro], tuple[State, Losses]]:
    """Compile the training step: (state, base, stacked microbatches) -> (state, losses).

    Args:
        form: of the tuned parameters.
        loss_of: from `supervised` or `preference`.
        optimizer: from `make_optimizer`.
        shardings: a pytree like the state, for the state before and after; None lets XLA choose.
    """

    def objective(params: Params, base: Mistral, micro: Micro):
        return loss_of(attach(base, params, form), base, micro)

    def gradients(params, base, micro):
        (loss, parts), grads = jax.value_and_grad(objective, has_aux=True)(params, base, micro)
        early, distill = jnp.sum(parts.text_E), jnp.sum(parts.distill_E)
        return grads, jnp.stack([loss, parts.full, early, distill])

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step(state: State, base: Mistral, micros: Micro) -> tuple[State, Losses]:
        count = micros.targets.tokens_BS.shape[0]
        zero = jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(4)

        def add(total, micro):
            tokens_BS = constrain(micro.targets.tokens_BS, "BS", base.mesh)
            micro = micro._replace(targets=micro.targets._replace(tokens_BS=tokens_BS))
            return jax.tree.map(jnp.add, total, gradients(state.params, base, micro)), None

        (grads, parts), _ = jax.lax.scan(add, zero, micros)
        grads, parts = jax.tree.map(lambda x: x / count, (grads, parts))
        updates, moments = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        loss, full, early, distill = parts
        losses = Losses(loss, full, early, distill, optax.tree.norm(grads))
        return State(state.step + 1, params, moments), losses

    return step
