"""Exit policies of dynamic decoding: after which layer a token exits.

At each candidate exit a policy gives a score; the token exits at the first candidate whose score
reaches the threshold, or at the last layer if none does.

top1        probability of the most probable token
margin      top1 minus the probability of the second token ("softmax response", CALM)
saturation  cosine of the residual streams after this layer and the one before (CALM)
patience    how many candidates in a row, this one included, agree on the most probable token
            (Zhou et al. 2020, arXiv:2006.04152)
classifier  probability, by a linear classifier of the residual stream, that the most probable
            token is full depth's (CALM)
guarded     probability, by a linear probe of the prompt at an early layer, that the prompt is
            harmless: what is not calm runs to full depth (see `depth.guard`)
fixed       the number of layers that have run: static truncation
oracle      1 where the most probable token is full depth's

CALM: Schuster et al. 2022 (arXiv:2207.07061).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdepth.cpu.argmax import argmax
from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray
from jaxdepth.model.attention import HIGHEST


class Policy(StrEnum):
    """The score of an exit policy; the value is its name."""

    TOP1 = "top1"
    MARGIN = "margin"
    SATURATION = "saturation"
    PATIENCE = "patience"
    CLASSIFIER = "classifier"
    GUARDED = "guarded"
    FIXED = "fixed"
    ORACLE = "oracle"


class Caching(StrEnum):
    """Keys and values of the layers that a token did not run.

    propagate  computed from the residual stream that it exited with (CALM's state propagation)
    late       those of a full pass, computed when a later token goes deeper
    """

    PROPAGATE = "propagate"
    LATE = "late"


@dataclass(frozen=True)
class Guard:
    """Where a guarded rule reads harm, and from which exit on a calm token exits."""

    probe: str  # its name
    layer: int  # the probe reads the residual stream after so many layers, 1..L
    first_exit: int | None = None  # None: the first candidate that is not before `layer`


@dataclass(frozen=True)
class ExitRule:
    """A policy with its threshold, from which a token exits."""

    policy: Policy
    threshold: float
    decay: float | None = None
    """CALM's: token t of at most N needs 0.9 threshold + 0.1 exp(-decay t / N), at most 1."""
    caching: Caching = Caching.LATE
    guard: Guard | None = None  # of the policy guarded, which needs one

    def __post_init__(self):
        if not self.threshold >= 0:
            raise InputError(
                f"the threshold of {self.policy} is {self.threshold}, expected 0 or more"
            )
        if self.decay is not None and not self.decay >= 0:
            raise InputError(f"decay is {self.decay}, expected 0 or more")
        if (self.guard is not None) != (self.policy == Policy.GUARDED):
            raise InputError("a guard and the policy guarded go together")
        if self.decay is not None and self.policy in (
            Policy.PATIENCE, Policy.GUARDED, Policy.FIXED, Policy.ORACLE,
        ):  # fmt: skip
            raise InputError(f"the threshold of {self.policy} does not decay")
        if self.policy == Policy.ORACLE and self.caching == Caching.PROPAGATE:
            raise InputError(
                "the oracle needs full depth's token at every step, which propagated caches do not "
                "have: take caching late"
            )


class ExitClassifier(NamedTuple):
    """A logistic classifier per layer: sigmoid(h @ w + b) that the token is full depth's."""

    weights_LD: Float[AnyArray, "L D"]  # row d - 1 is for exit d
    bias_L: Float[AnyArray, " L"]


class TopToken(NamedTuple):
    """The most probable token of some logits."""

    token: Int[Array, "*batch"]
    top1: Float[Array, "*batch"]  # its probability
    margin: Float[Array, "*batch"]  # that minus the probability of the second


def top_token(logits: Float[Array, "*batch V"]) -> TopToken:
    """The most probable token, its probability, and by how much it leads the second."""
    token, first = argmax(logits), jnp.max(logits, axis=-1)
    others = jnp.where(jnp.arange(logits.shape[-1]) == token[..., None], -jnp.inf, logits)
    top1 = 1 / jnp.sum(jnp.exp(logits - first[..., None]), axis=-1)
    return TopToken(token, top1, top1 * (1 - jnp.exp(jnp.max(others, axis=-1) - first)))


def saturation(
    before: Float[Array, "*batch D"], after: Float[Array, "*batch D"]
) -> Float[Array, "*batch"]:
    """Cosine of the residual streams before and after a layer, float32."""
    before, after = before.astype(jnp.float32), after.astype(jnp.float32)
    dot = jnp.sum(before * after, axis=-1)
    return dot / (jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1))


def classify(
    classifier: ExitClassifier, exit_layer: Int[Array, ""], h: Float[Array, "*batch D"]
) -> Float[Array, "*batch"]:
    """Probability, float32, that the token at an exit 1..L is full depth's."""
    w_D, b = classifier.weights_LD[exit_layer - 1], classifier.bias_L[exit_layer - 1]
    log_odds = jnp.einsum("...d,d->...", h.astype(jnp.float32), w_D, precision=HIGHEST)
    return jax.nn.sigmoid(log_odds + b)


def threshold_at(
    threshold: Float[Array, "*batch"],
    decay: Float[Array, "*batch"],
    step: Int[Array, ""],
    max_new_tokens: int,
) -> Float[Array, "*batch"]:
    """The threshold of new token `step`; it is constant where `decay` is NaN."""
    decayed = jnp.clip(0.9 * threshold + 0.1 * jnp.exp(-decay * step / max_new_tokens), 0, 1)
    return jnp.where(jnp.isnan(decay), threshold, decayed)
