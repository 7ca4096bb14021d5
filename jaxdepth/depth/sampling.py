"""How a lane's next token is chosen: greedy, or drawn with a seed of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.errors import InputError, at_least


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. Otherwise top-k, then top-p, then a draw."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature}, expected 0 or more")
        at_least(1, top_k=self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected more than 0, at most 1")


def lane_keys(seeds_B: Sequence[int], exits: Sequence[int], samples: Sequence[int]) -> Array:
    """A random key per lane (E, M, B), of its prompt's seed, its exit and its sample number."""

    def key(seed, exit, sample):
        start = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(start, exit), sample)

    over_B = jax.vmap(key, in_axes=(0, None, None))
    over_MB = jax.vmap(over_B, in_axes=(None, None, 0))
    over_EMB = jax.vmap(over_MB, in_axes=(None, 0, None))
    return over_EMB(*(jnp.asarray(np.asarray(x), jnp.int32) for x in (seeds_B, exits, samples)))


def choose(
    logits_XBV: Float[Array, "X B V"], keys_XB: Array, step: Int[Array, ""], sampling: Sampling
) -> Int[Array, "X B"]:
    """The next token of every lane."""
    if sampling.temperature == 0:
        return argmax(logits_XBV)
    kept_XBV = filter_logits(logits_XBV / sampling.temperature, sampling)

    def draw(key, logits_V):
        return jax.random.categorical(jax.random.fold_in(key, step), logits_V)

    return jax.vmap(jax.vmap(draw))(keys_XB, kept_XBV).astype(jnp.int32)


def argmax(logits: Float[Array, "... V"]) -> Int[Array, "..."]:
    """`jnp.argmax` over the last axis, as int32, by the largest of chunks.

    XLA on CPU takes an argmax element by element, but a maximum many at a time.
    """
    V = logits.shape[-1]
    chunk = math.gcd(V, 256)
    chunks = logits.reshape(*logits.shape[:-1], V // chunk, chunk)
    best = jnp.argmax(jnp.max(chunks, axis=-1), axis=-1)
    inside = jnp.take_along_axis(chunks, best[..., None, None], axis=-2)[..., 0, :]
    return (best * chunk + jnp.argmax(inside, axis=-1)).astype(jnp.int32)


def filter_logits(logits: Float[Array, "... V"], sampling: Sampling) -> Float[Array, "... V"]:
    """Logits with -inf for tokens outside the top k, and outside the smallest set of mass top p."""
    if sampling.top_k is not None:
        k = min(sampling.top_k, logits.shape[-1])
        least = jax.lax.top_k(logits, k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        p = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(p, axis=-1) - p  # mass of the more probable tokens
        least = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
