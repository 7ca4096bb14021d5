"""Refusal openers and the next-token distribution of every exit before a reply.

The first token of a reply is strong evidence of a refusal: "I cannot", "Sorry", "As an AI". Its
log-odds are the refusal metric of Arditi et al. 2024 (arXiv:2406.11717), log p - log(1 - p).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.errors import InputError, listed
from jaxdepth.model import AnyArray
from jaxdepth.prompts.chat import PromptEncoder

DEFAULT_OPENERS = ("I", "As", "Sorry", "Unfortunately", "Apologies")


class FirstToken(NamedTuple):
    """Summary of each exit's next-token distribution, per prompt. Logarithms are natural."""

    refusal_log_odds: Float[AnyArray, "E B"]  # log p(openers) - log p(all others)
    top_token: Int[AnyArray, "E B"]
    top_prob: Float[AnyArray, "E B"]
    entropy: Float[AnyArray, "E B"]  # nats
    kl_to_full: Float[AnyArray, "E B"]  # KL(full depth || this exit), nats
    agrees_with_full: Bool[AnyArray, "E B"]  # the same top token as at full depth


def first_token(logits_EBV: Float[Array, "E B V"], is_opener_V: Bool[AnyArray, " V"]) -> FirstToken:
    """Summarise the next-token logits of several exits, the last of which is full depth."""
    logp_EBV = jax.nn.log_softmax(logits_EBV.astype(jnp.float32), axis=-1)
    p_EBV = jnp.exp(logp_EBV)
    full_BV = logp_EBV[-1]
    top_EB = jnp.argmax(logp_EBV, axis=-1)

    def log_mass(mask_V):
        return jax.nn.logsumexp(jnp.where(mask_V, logp_EBV, -jnp.inf), axis=-1)

    return FirstToken(
        refusal_log_odds=log_mass(is_opener_V) - log_mass(~is_opener_V),
        top_token=top_EB,
        top_prob=jnp.max(p_EBV, axis=-1),
        entropy=-jnp.sum(p_EBV * logp_EBV, axis=-1),
        kl_to_full=jnp.sum(jnp.exp(full_BV) * (full_BV - logp_EBV), axis=-1),
        agrees_with_full=top_EB == top_EB[-1],
    )


def resolve_openers(
    encoder: PromptEncoder, openers: Sequence[str] = DEFAULT_OPENERS, within_reply: bool = False
) -> dict[str, int]:
    """The token ids that open a refusal: each opener as the first token of a reply.

    A default opener that is not a single token for this tokenizer is left out (its first piece
    would stand for many other words); one that a user names must be a single token.

    Args:
        encoder: of the model.
        openers: words.
        within_reply: some replies have a given start: openers after a space count too.

    Raises:
        InputError: a named opener is not one token, or none is left.
    """
    token_of = {opener: encoder.answer_start(opener) for opener in openers}
    split = [opener for opener, token in token_of.items() if token is None]
    if split and tuple(openers) != DEFAULT_OPENERS:
        raise InputError(
            f"refusal opener {listed(map(repr, split))} is not one token of this model"
        )
    single = {opener: token for opener, token in token_of.items() if token is not None}
    if not single:
        raise InputError("no refusal opener is a single token of this model: name some")
    if within_reply:
        spaced = {f" {opener}": encoder.word_after("so", opener) for opener in openers}
        single |= {text: token for text, token in spaced.items() if token is not None}
    return single
