"""Exit policies: when a token has gone deep enough.

At each candidate exit a policy scores what the layer shows of the token; the token exits at the
first candidate whose score reaches the threshold, at the last layer if none does.

top1        probability of the most probable token
margin      that less the probability of the second ("softmax response", CALM)
saturation  cosine of the residual streams after this layer and the one before (CALM)
patience    how many candidates in a row, this one included, have the same most probable token
            (Zhou et al. 2020, arXiv:2006.04152)
classifier  probability, by a linear classifier of the stream, that full depth would say the same
            (CALM)
fixed       the layer's number: the static truncation
oracle      1 where the most probable token is already full depth's

CALM: Schuster et al. 2022 (arXiv:2207.07061).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdepth.depth.sampling import argmax
from jaxdepth.errors import InputError
from jaxdepth.model.attention import HIGHEST


class Policy(StrEnum):
    """What is scored; the values are their names."""

    TOP1 = "top1"
    MARGIN = "margin"
    SATURATION = "saturation"
    PATIENCE = "patience"
    CLASSIFIER = "classifier"
    FIXED = "fixed"
    ORACLE = "oracle"


class Caching(StrEnum):
    """What stands in the caches of layers that a token did not run.

    propagate  keys and values of the stream that it exited with (CALM's state propagation)
    late       those that it would have had: they are computed when a later token goes deeper
    """

    PROPAGATE = "propagate"
    LATE = "late"


@dataclass(frozen=True)
class ExitRule:
    """A policy with its threshold."""

    policy: Policy
    threshold: float
    decay: float | None = None
    """CALM's: token t of at most N needs 0.9 threshold + 0.1 exp(-decay t / N), at most 1."""
    caching: Caching = Caching.LATE

    def __post_init__(self):
        if not self.threshold >= 0:
            raise InputError(f"the threshold of {self.policy} is {self.threshold}, expected 0 up")
        if self.decay is not None and not self.decay >= 0:
            raise InputError(f"decay is {self.decay}, expected 0 or more")
        if self.decay is not None and self.policy in (
            Policy.PATIENCE, Policy.FIXED, Policy.ORACLE,
        ):  # fmt: skip
            raise InputError(f"the threshold of {self.policy} does not decay")
        if self.policy == Policy.ORACLE and self.caching == Caching.PROPAGATE:
            raise InputError(
                "the oracle needs full depth's token at every step, which propagated caches do not "
                "have: take caching late"
            )


class ExitClassifier(NamedTuple):
    """A logistic classifier a layer: sigmoid(h @ w + b) that its token is full depth's."""

    weights_LD: Float[Array, "L D"]  # row d - 1 is for exit d
    bias_L: Float[Array, " L"]


class Reading(NamedTuple):
    """What logits show of a token."""

    token: Int[Array, "..."]  # the most probable
    top1: Float[Array, "..."]  # its probability
    margin: Float[Array, "..."]  # that less the probability of the second


def read(logits: Float[Array, "... V"]) -> Reading:
    """The most probable token, how probable it is, and by how much more than the second."""
    token, first = argmax(logits), jnp.max(logits, axis=-1)
    others = jnp.where(jnp.arange(logits.shape[-1]) == token[..., None], -jnp.inf, logits)
    top1 = 1 / jnp.sum(jnp.exp(logits - first[..., None]), axis=-1)
    return Reading(token, top1, top1 * (1 - jnp.exp(jnp.max(others, axis=-1) - first)))


def saturation(before: Float[Array, "... D"], after: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Cosine of the residual streams before and after a layer, float32."""
    before, after = before.astype(jnp.float32), after.astype(jnp.float32)
    along = jnp.sum(before * after, axis=-1)
    return along / (jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1))


def classify(
    classifier: ExitClassifier, exit: Int[Array, ""], h: Float[Array, "... D"]
) -> Float[Array, "..."]:
    """Probability, float32, that the token at an exit 1..L is full depth's."""
    w_D, b = classifier.weights_LD[exit - 1], classifier.bias_L[exit - 1]
    along = jnp.einsum("...d,d->...", h.astype(jnp.float32), w_D, precision=HIGHEST)
    return jax.nn.sigmoid(along + b)


def threshold_at(
    threshold: Float[Array, "..."], decay: Float[Array, "..."], step: Int[Array, ""], most: int
) -> Float[Array, "..."]:
    """The threshold of new token `step` of at most `most`; it is constant where decay is NaN."""
    decayed = jnp.clip(0.9 * threshold + 0.1 * jnp.exp(-decay * step / most), 0, 1)
    return jnp.where(jnp.isnan(decay), threshold, decayed)
