"""What a lane says next, given its logits: asked by the decoding loop at every step.

A talk is a pytree, so that what it holds is traced, and what it knows of its lanes is carried by
the loop. `Speak` just speaks; `refusal.decide` has one that thinks, decides, and then answers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.sampling import Sampling, choose


class Talk(Protocol):
    """Says the tokens of all lanes."""

    def start(self, X: int, B: int) -> Any:
        """What it knows before any lane has said a token."""

    def next(
        self,
        known: Any,
        logits_XBV: Float[Array, "X B V"],
        tokens_XBT: Int[Array, "X B T"],
        step: Int[Array, ""],
        keys_XB: Array,
    ) -> tuple[Int[Array, "X B"], Bool[Array, "X B"], Any]:
        """Token `step` of every lane, which lanes end with it, and what is known then.

        `tokens_XBT` holds the tokens before it. What is said of a lane that has ended is dropped.
        """


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["stop_tokens"], meta_fields=["sampling"]
)
@dataclass(frozen=True)
class Speak:
    """Says one token after the other until an end token."""

    sampling: Sampling
    stop_tokens: Int[Array, " stops"]

    @classmethod
    def of(cls, sampling: Sampling, stop_tokens: Sequence[int]) -> "Speak":
        return cls(sampling, jnp.asarray(tuple(stop_tokens), jnp.int32))

    def start(self, X: int, B: int) -> None:
        return None

    def next(self, known, logits_XBV, tokens_XBT, step, keys_XB):
        token_XB = choose(logits_XBV, keys_XB, step, self.sampling)
        return token_XB, is_any(token_XB, self.stop_tokens), None


def is_any(tokens: Int[Array, "..."], some: Int[Array, " n"]) -> Bool[Array, "..."]:
    """Which tokens are among some."""
    return (tokens[..., None] == some).any(-1)
