"""Training losses at exits, all from one pass over the layers.

A batch packs its supervised positions into R rows over all sequences. Only those are unembedded,
one exit at a time, so that at most R x V logits are in memory whatever the number of exits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.layer_scan import Backward, scan_layers
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral
from jaxdepth.tune.packed import Packed, scan_packed


class Targets(NamedTuple):
    """Sequences, and which of their next tokens are targets."""

    tokens_BS: Int[AnyArray, "B S"]
    sequence_R: Int[AnyArray, " R"]  # the sequence of a row
    place_R: Int[AnyArray, " R"]  # the position that predicts
    target_R: Int[AnyArray, " R"]  # the next token
    # The same sequences packed, and the place of each row there; where given, they are what runs.
    packed: Packed | None = None
    packed_R: Int[AnyArray, " R"] | None = None
    # For pairs of prompts, the rows of their replies' first tokens: harmful, then harmless.
    first_P2: Int[AnyArray, "P 2"] | None = None


class Weights(NamedTuple):
    """The weight of each row at full depth and at early exits; padding rows have 0.

    An early exit is evaluated at N of the R rows, or at all of them (`rows_EN` is None, N is R).
    """

    full_R: Float[AnyArray, " R"] | None  # of the cross-entropy at full depth; None: it stays
    exits_E: Int[AnyArray, " E"]  # below full depth
    text_EN: Float[AnyArray, "E N"]  # of the cross-entropy with the target
    distill_EN: Float[AnyArray, "E N"]  # of the divergence from full depth
    base_EN: Float[AnyArray, "E N"] | None = None  # of the divergence from the base's full depth
    rows_EN: Int[AnyArray, "E N"] | None = None
    # Of the contrast within each pair, at full depth and at the early exits.
    full_contrast_P: Float[AnyArray, " P"] | None = None
    contrast_EP: Float[AnyArray, "E P"] | None = None


class Parts(NamedTuple):
    """The parts of a loss, nats."""

    full: Float[Array, ""]  # full depth's text and contrast, or its preferences
    text_E: Float[Array, " E"]  # the same at early exits
    distill_E: Float[Array, " E"]  # divergence there

    @property
    def total(self) -> Float[Array, ""]:
        return self.full + jnp.sum(self.text_E) + jnp.sum(self.distill_E)


class Contrast(NamedTuple):
    """A contrast between the prompts of a pair: a margin on their refusal log-odds.

    The loss is softplus(margin - (log-odds of the harmful one - those of the harmless one)), where
    the log-odds are those of a first token that opens a refusal.
    """

    is_opener_V: Bool[AnyArray, " V"]
    margin: float  # nats


def row_hidden(
    model: Mistral,
    targets: Targets,
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    *,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> Float[Array, "L R D"]:
    """The residual stream after every layer at the rows, from one pass.

    Args:
        model: the model, its low-rank factors attached or merged.
        targets: the sequences and rows.
        keep_LB: the layers that each sequence runs; None is all. The others pass the residual
            stream on (layer dropout). Not where they are packed.
        backward: how the gradient is made.
    """
    if targets.packed is not None:
        packed_R = targets.packed_R
        return scan_packed(model, targets.packed, lambda h_ND: h_ND[packed_R], backward=backward)
    rows = (targets.sequence_R, targets.place_R)
    _, h_LRD = scan_layers(
        model,
        model.embed_tokens(targets.tokens_BS),
        lambda output: output.h_BSD[rows],
        keep_LB=keep_LB,
        backward=backward,
    )
    return h_LRD


def supervised_loss(
    model: Mistral,
    targets: Targets,
    weights: Weights,
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    *,
    distill: bool,
    base: Mistral | None = None,
    contrast: Contrast | None = None,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> tuple[Float[Array, ""], Parts]:
    """Cross-entropy with the targets, divergence from full depth, and contrast, at the exits.

    The divergence is KL(full depth || exit) in nats, with no gradient through full depth, which is
    that of the same pass, or the base's.

    Args:
        model: the model, its low-rank factors attached.
        targets: sequences and rows.
        weights: the weight of each row at each exit.
        keep_LB, backward: as for `row_hidden`.
        distill: whether any `distill_EN` is above 0; otherwise no divergence is computed.
        base: teaches by its full depth where `base_EN` is above 0.
        contrast: weighted by `full_contrast_P` and `contrast_EP`.
    """
    targets, weights = jax.tree.map(jnp.asarray, (targets, weights))
    h_LRD = row_hidden(model, targets, keep_LB, backward=backward)
    full = jnp.zeros(())
    teachers = []
    if distill or weights.full_R is not None:
        full_RV = _logprobs(model, h_LRD[-1], model.depth)
        if weights.full_R is not None:
            full = -jnp.sum(weights.full_R * _of_targets(full_RV, targets.target_R))
        if distill:
            teachers.append((full_RV, weights.distill_EN))
    if contrast is not None and weights.full_contrast_P is not None:
        full += _contrasted(
            model, h_LRD[-1], model.depth, targets, contrast, weights.full_contrast_P
        )
    if base is not None and weights.base_EN is not None:
        h_RD = row_hidden(base, targets)[-1]
        teachers.append((_logprobs(base, h_RD, base.depth), weights.base_EN))
    teachers = [(jax.lax.stop_gradient(logp_RV), weight_EN) for logp_RV, weight_EN in teachers]
    if not len(weights.exits_E):
        return full, Parts(full, *(jnp.zeros(0),) * 2)

    @jax.checkpoint
    def at_exit(of_exit):
        h_RD, exit_layer, rows_N, text_N, taught, contrast_P = of_exit
        rows = slice(None) if rows_N is None else rows_N
        logp_NV = _logprobs(model, h_RD[rows], exit_layer)
        text = -jnp.sum(text_N * _of_targets(logp_NV, targets.target_R[rows]))
        if contrast is not None:
            text += _contrasted(model, h_RD, exit_layer, targets, contrast, contrast_P)
        divergence = jnp.zeros(())
        for (teacher_RV, _), weight_N in zip(teachers, taught, strict=True):
            true_NV = teacher_RV[rows]
            kl_N = jnp.sum(jnp.exp(true_NV) * (true_NV - logp_NV), axis=-1)
            divergence += jnp.sum(weight_N * kl_N)
        return text, divergence

    of_exits = (
        h_LRD[weights.exits_E - 1],
        weights.exits_E,
        weights.rows_EN,
        weights.text_EN,
        tuple(weight_EN for _, weight_EN in teachers),
        weights.contrast_EP,
    )
    parts = Parts(full, *jax.lax.map(at_exit, of_exits))
    return parts.total, parts


def _contrasted(
    model: Mistral,
    h_RD: Float[Array, "R D"],
    exit_layer: int | Int[Array, ""],
    targets: Targets,
    contrast: Contrast,
    weight_P: Float[AnyArray, " P"],
) -> Float[Array, ""]:
    logp_P2V = _logprobs(model, h_RD[targets.first_P2], exit_layer)

    def log_mass(mask_V):
        return jax.nn.logsumexp(jnp.where(mask_V, logp_P2V, -jnp.inf), axis=-1)

    odds_P2 = log_mass(contrast.is_opener_V) - log_mass(~contrast.is_opener_V)
    return jnp.sum(weight_P * jax.nn.softplus(contrast.margin - odds_P2[:, 0] + odds_P2[:, 1]))


def answer_logprobs(
    model: Mistral,
    targets: Targets,
    counts_R: Float[Array, " R"],
    exits_E: Int[Array, " E"],
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    *,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> Float[Array, "E B"]:
    """Summed log-probability of each sequence's rows, at each exit, nats.

    Args:
        counts_R: 1 for a row that counts, 0 for a padding row.
        keep_LB, backward: as for `row_hidden`.
    """
    h_LRD = row_hidden(model, targets, keep_LB, backward=backward)
    B = targets.tokens_BS.shape[0]

    @jax.checkpoint
    def at_exit(of_exit):
        logp_R = counts_R * _of_targets(_logprobs(model, *of_exit), targets.target_R)
        return jax.ops.segment_sum(logp_R, targets.sequence_R, B)

    return jax.lax.map(at_exit, (h_LRD[exits_E - 1], exits_E))


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


def _logprobs(
    model: Mistral, h_ND: Float[Array, "*batch D"], exit_layer: int | Int[Array, ""]
) -> Float[Array, "*batch V"]:
    return jax.nn.log_softmax(model.unembed(h_ND, exit_layer), axis=-1)


def _of_targets(logp_NV: Float[Array, "N V"], target_N: Int[AnyArray, " N"]) -> Float[Array, " N"]:
    return jnp.take_along_axis(logp_NV, target_N[:, None], axis=-1)[:, 0]
