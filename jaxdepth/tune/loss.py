"""Training losses at exits, all from one pass over the layers.

A batch packs its supervised positions into R rows over all sequences. Only those are unembedded,
one exit at a time, so that at most R x V logits are in memory whatever the number of exits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral


class Targets(NamedTuple):
    """Sequences, and which of their next tokens are targets."""

    tokens_BS: Int[AnyArray, "B S"]
    sequence_R: Int[AnyArray, " R"]  # the sequence of a row
    place_R: Int[AnyArray, " R"]  # the position that predicts
    target_R: Int[AnyArray, " R"]  # the next token


class Weights(NamedTuple):
    """The weight of each row at each exit; padding rows have 0."""

    exits_E: Int[AnyArray, " E"]  # 1..L
    text_ER: Float[AnyArray, "E R"]  # of the cross-entropy with the target
    distill_ER: Float[AnyArray, "E R"]  # of the divergence from full depth


def row_hidden(
    model: Mistral,
    targets: Targets,
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    *,
    remat: bool = False,
) -> Float[Array, "L R D"]:
    """The residual stream after every layer at the rows, from one pass.

    Args:
        model: the model, its low-rank factors attached or merged.
        targets: the sequences and rows.
        keep_LB: the layers that each sequence runs; None is all. The others pass the residual
            stream on (layer dropout).
        remat: compute each layer again for its gradient, which takes less memory and more time.
    """
    rows = (targets.sequence_R, targets.place_R)
    _, h_LRD = scan_layers(
        model,
        model.embed_tokens(targets.tokens_BS),
        lambda output: output.h_BSD[rows],
        keep_LB=keep_LB,
        remat=remat,
    )
    return h_LRD


def supervised_loss(
    model: Mistral,
    targets: Targets,
    weights: Weights,
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    *,
    distill: bool,
    remat: bool = False,
) -> tuple[Float[Array, ""], tuple[Float[Array, " E"], Float[Array, " E"]]]:
    """Cross-entropy with the targets plus divergence from full depth, at the weighted exits.

    The divergence is KL(full depth || exit) in nats, with no gradient through full depth, which is
    that of the same pass.

    Args:
        model: the model, its low-rank factors attached.
        targets: sequences and rows.
        weights: the weight of each row at each exit.
        keep_LB, remat: as for `row_hidden`.
        distill: whether any `distill_ER` is above 0; otherwise no divergence is computed.

    Returns:
        The loss, and its two parts at each exit (weighted sums over rows).
    """
    h_LRD = row_hidden(model, targets, keep_LB, remat=remat)
    full_RV = jax.lax.stop_gradient(_logprobs(model, h_LRD[-1])) if distill else None

    @jax.checkpoint
    def at_exit(of_exit):
        h_RD, text_R, distill_R = of_exit
        logp_RV = _logprobs(model, h_RD)
        text = -jnp.sum(text_R * _target_logprobs(logp_RV, targets))
        if full_RV is None:
            return text, jnp.zeros(())
        kl_R = jnp.sum(jnp.exp(full_RV) * (full_RV - logp_RV), axis=-1)
        return text, jnp.sum(distill_R * kl_R)

    of_exits = (h_LRD[weights.exits_E - 1], weights.text_ER, weights.distill_ER)
    text_E, distill_E = jax.lax.map(at_exit, of_exits)
    return jnp.sum(text_E) + jnp.sum(distill_E), (text_E, distill_E)


def answer_logprobs(
    model: Mistral,
    targets: Targets,
    counts_R: Float[Array, " R"],
    exits_E: Int[Array, " E"],
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    *,
    remat: bool = False,
) -> Float[Array, "E B"]:
    """Summed log-probability of each sequence's rows, at each exit, nats.

    Args:
        counts_R: 1 for a row that counts, 0 for a padding row.
        keep_LB, remat: as for `row_hidden`.
    """
    h_LRD = row_hidden(model, targets, keep_LB, remat=remat)
    B = targets.tokens_BS.shape[0]

    @jax.checkpoint
    def at_exit(h_RD):
        logp_R = counts_R * _target_logprobs(_logprobs(model, h_RD), targets)
        return jax.ops.segment_sum(logp_R, targets.sequence_R, B)

    return jax.lax.map(at_exit, h_LRD[exits_E - 1])


def dpo_loss(
    chosen: Float[Array, "..."],
    rejected: Float[Array, "..."],
    chosen_base: Float[Array, "..."],
    rejected_base: Float[Array, "..."],
    beta: float,
) -> Float[Array, "..."]:
    """The loss of direct preference optimisation (DPO), nats, for each pair.

    Args:
        chosen, rejected: log-probabilities of both answers under the tuned model.
        chosen_base, rejected_base: the same under the base.
        beta: strength of the KL penalty: a smaller beta lets the model move farther from the base.

    Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 7.
    """
    margin = (chosen - chosen_base) - (rejected - rejected_base)
    return -jax.nn.log_sigmoid(beta * margin)


def _logprobs(model: Mistral, h_RD: Float[Array, "R D"]) -> Float[Array, "R V"]:
    return jax.nn.log_softmax(model.unembed(h_RD), axis=-1)


def _target_logprobs(logp_RV: Float[Array, "R V"], targets: Targets) -> Float[Array, " R"]:
    return jnp.take_along_axis(logp_RV, targets.target_R[:, None], axis=-1)[:, 0]
