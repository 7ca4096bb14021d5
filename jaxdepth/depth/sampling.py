"""Choose the next token of each lane from its logits: greedily, or sampled with the lane's own key.

The decoding loop calls a `Sampler` at every step. A sampler is a pytree, so that its arrays are
traced; the loop carries its state. `TokenSampler` samples until an end token; `refusal.deliberate`
has one that thinks, decides on a verdict, and then answers.
"""

import functools
from dataclasses import dataclass
from typing import Any, Protocol, no_type_check, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdepth.cpu.argmax import argmax
from jaxdepth.errors import InputError, at_least
from jaxdepth.model import Ints


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: greedily at temperature 0, else sampled after top-k and top-p."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature}, expected 0 or more")
        at_least(1, top_k=self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected more than 0, at most 1")


@runtime_checkable
class Sampler(Protocol):
    """Chooses the tokens of all lanes, step by step."""

    def start(self, X: int, B: int) -> Any:
        """The state before the first token of any lane: a pytree of arrays, or None."""

    def next(
        self,
        state: Any,
        logits_XBV: Float[Array, "X B V"],
        tokens_XBT: Int[Array, "X B T"],
        step: Int[Array, ""],
        keys_XB: Key[Array, "X B"],
    ) -> tuple[Int[Array, "X B"], Bool[Array, "X B"], Any]:
        """Token `step` of every lane, which lanes end with it, and the new state.

        `tokens_XBT` holds the tokens before it. The loop ignores the tokens of lanes that have
        ended.
        """

    def reads_prompt(self, state: Any) -> Bool[Array, "X B"] | None:
        """Whether the token that `next` chose last attends to the prompt; None: all tokens do."""


# No check of its fields at run time: JAX also rebuilds a pytree with what is no array.
@no_type_check
@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["stop_tokens"], meta_fields=["sampling"]
)
@dataclass(frozen=True)
class TokenSampler:
    """A `Sampler` that samples every token alike, until an end token.

    Its state is which lanes' logits were finite at all their tokens; a lane ends where they are
    not. NaN or infinity in a residual stream makes all of a token's logits NaN.
    """

    sampling: Sampling
    stop_tokens: Int[Array, " stops"]

    @classmethod
    def of(cls, sampling: Sampling, stop_tokens: Ints) -> "TokenSampler":
        """The sampler for token ids that end a lane."""
        return cls(sampling, jnp.asarray(tuple(stop_tokens), jnp.int32))

    def start(self, X: int, B: int) -> Bool[Array, "X B"]:
        return jnp.ones((X, B), bool)

    def next(
        self,
        state: Bool[Array, "X B"],
        logits_XBV: Float[Array, "X B V"],
        tokens_XBT: Int[Array, "X B T"],
        step: Int[Array, ""],
        keys_XB: Key[Array, "X B"],
    ) -> tuple[Int[Array, "X B"], Bool[Array, "X B"], Bool[Array, "X B"]]:
        token_XB = choose(logits_XBV, keys_XB, step, self.sampling)
        chosen_XB = jnp.take_along_axis(logits_XBV, token_XB[..., None], axis=-1)[..., 0]
        is_finite_XB = jnp.isfinite(chosen_XB)
        return token_XB, is_any(token_XB, self.stop_tokens) | ~is_finite_XB, state & is_finite_XB

    def reads_prompt(self, state: Bool[Array, "X B"]) -> None:
        return None


def lane_keys(seeds_B: Ints, exits: Ints, samples: Ints) -> Key[Array, "E M B"]:
    """A random key for each lane, from its prompt's seed, its exit and its sample number."""

    def key(seed, exit_layer, sample):
        start = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(start, exit_layer), sample)

    over_B = jax.vmap(key, in_axes=(0, None, None))
    over_MB = jax.vmap(over_B, in_axes=(None, None, 0))
    over_EMB = jax.vmap(over_MB, in_axes=(None, 0, None))
    return over_EMB(*(jnp.asarray(np.asarray(x), jnp.int32) for x in (seeds_B, exits, samples)))


def choose(
    logits_XBV: Float[Array, "X B V"],
    keys_XB: Key[Array, "X B"],
    step: Int[Array, ""],
    sampling: Sampling,
) -> Int[Array, "X B"]:
    """Choose token `step` of every lane."""
    if sampling.temperature == 0:
        return argmax(logits_XBV)
    filtered_XBV = filter_logits(logits_XBV / sampling.temperature, sampling)

    def draw(key, logits_V):
        return jax.random.categorical(jax.random.fold_in(key, step), logits_V)

    return jax.vmap(jax.vmap(draw))(keys_XB, filtered_XBV).astype(jnp.int32)


def filter_logits(logits: Float[Array, "*batch V"], sampling: Sampling) -> Float[Array, "*batch V"]:
    """Set logits to -inf outside the top k, and outside the smallest set of probability top p."""
    if sampling.top_k is not None:
        k = min(sampling.top_k, logits.shape[-1])
        smallest = jax.lax.top_k(logits, k)[0][..., -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        p = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(p, axis=-1) - p  # probability of the more probable tokens together
        smallest = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits


def is_any(tokens: Int[Array, "*batch"], ids: Int[Array, " n"]) -> Bool[Array, "*batch"]:
    """Which tokens are among some ids."""
    return (tokens[..., None] == ids).any(-1)
