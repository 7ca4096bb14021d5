"""Think, then decide: the state machine of every lane, on device, at every exit at once.

    think -> close -> decide -> answer

A thought ends when the model writes the closing marker, when it has no tokens left, or when it
would end its reply; in the last two cases the marker is written for it. The next position's
distribution over the verdict tokens decides; the verdict is written, and what comes after it is the
answer. Only generated positions count, by their index: no text is searched, so nothing in a prompt
can move a lane on.
"""

import functools
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.sampling import Sampling, choose
from jaxdepth.depth.talk import is_any
from jaxdepth.errors import InputError

ABSTAINS = 3  # the verdict's number where the margin is too small; 0 to 2 are `VERDICTS`


class Phase(IntEnum):
    """Where a lane is."""

    THINK = 0
    CLOSE = 1
    DECIDE = 2
    ANSWER = 3


class ClosedBy(IntEnum):
    """What ended a thought."""

    MODEL = 0  # it wrote the closing marker
    BUDGET = 1
    END = 2  # it would have ended its reply
    CUT = 3  # the thought was given


@dataclass(frozen=True)
class Rule:
    """From the probabilities of the verdicts to one of them."""

    temperature: float = 1.0  # divides their log-probabilities; fitted on a validation split
    refuse_from: float | None = None  # P(refuse) from which it refuses
    caution_from: float | None = None  # P(refuse) + P(partial) from which it is partial
    abstain_below: float = 0.0  # margin between the first and the second

    def __post_init__(self):
        if not self.temperature > 0:
            raise InputError(f"the verdict temperature is {self.temperature}, expected above 0")
        if (self.refuse_from is None) != (self.caution_from is None):
            raise InputError("refuse_from and caution_from belong together: give both or neither")
        for name in ("refuse_from", "caution_from", "abstain_below"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}, expected 0 to 1")

    def probabilities(self, logp: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
        """Probabilities of refuse, partial and comply among themselves."""
        return jax.nn.softmax(logp / self.temperature, axis=-1)

    def choose(self, p: Float[Array, "... 3"]) -> Int[Array, "..."]:
        """The number of a verdict, 0 to 2, or `ABSTAINS`."""
        if self.refuse_from is None:
            chosen = jnp.argmax(p, axis=-1)
        else:
            caution = p[..., 0] + p[..., 1] >= self.caution_from
            chosen = jnp.where(p[..., 0] >= self.refuse_from, 0, jnp.where(caution, 1, 2))
        return jnp.where(margin(p) < self.abstain_below, ABSTAINS, chosen).astype(jnp.int32)


def margin(p: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """The most probable verdict's lead over the second."""
    ordered = jnp.sort(p, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


class Known(NamedTuple):
    """What is known of each lane, carried from token to token."""

    phase: Int[Array, "X B"]
    place: Int[Array, "X B"]  # tokens said in this phase
    thought: Int[Array, "X B"]  # tokens of the thought, once it has ended
    closed_by: Int[Array, "X B"]
    logp: Float[Array, "X B 3"]  # of the verdict tokens among all tokens, natural
    verdict: Int[Array, "X B"]  # -1 before it is decided


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["close", "verdicts", "stop_tokens", "budgets", "forced", "script", "answer"],
    meta_fields=["sampling", "rule"],
)
@dataclass(frozen=True)
class Deliberate:
    """The talk of lanes that think, decide and answer."""

    close: Int[Array, " C"]
    verdicts: Int[Array, " 3"]
    stop_tokens: Int[Array, " stops"]
    budgets: Int[Array, "#X #B"]  # the longest thought; -1 for lanes that begin by closing one
    forced: Int[Array, "#X #B"]  # a verdict that is written whatever the lane thinks, or -1
    script: Int[Array, "X B N"] | None  # thoughts that are given, of the budgets' lengths
    answer: Int[Array, ""]  # the longest answer
    sampling: Sampling
    rule: Rule

    def start(self, X: int, B: int) -> Known:
        zero = jnp.zeros((X, B), jnp.int32)
        given = jnp.broadcast_to(self.budgets < 0, (X, B))
        return Known(
            phase=jnp.where(given, Phase.CLOSE, Phase.THINK).astype(jnp.int32),
            place=zero,
            thought=zero,
            closed_by=jnp.where(given, ClosedBy.CUT, ClosedBy.BUDGET).astype(jnp.int32),
            logp=jnp.zeros((X, B, 3), jnp.float32),
            verdict=zero - 1,
        )

    def next(self, known, logits_XBV, tokens_XBT, step, keys_XB):
        drawn = choose(logits_XBV, keys_XB, step, self.sampling)
        phase, place, thought, closed_by, logp, verdict = known

        # Is there more of the thought?
        thinking = phase == Phase.THINK
        full = thinking & (place >= self.budgets)
        if self.script is None:
            would_end = thinking & ~full & is_any(drawn, self.stop_tokens)
            idea = drawn
        else:
            would_end = jnp.zeros_like(full)
            at = jnp.minimum(place, self.script.shape[-1] - 1)
            idea = jnp.take_along_axis(self.script, at[..., None], axis=-1)[..., 0]
            closed_by = jnp.where(full, ClosedBy.CUT, closed_by)
        closed_by = jnp.where(would_end, ClosedBy.END, closed_by)
        stops = full | would_end
        thought = jnp.where(stops, place, thought)
        phase = jnp.where(stops, Phase.CLOSE, phase)
        place = jnp.where(stops, 0, place)

        # The token of this position
        thinking, closing, deciding = (phase == p for p in (Phase.THINK, Phase.CLOSE, Phase.DECIDE))
        logp = self._read(logits_XBV, deciding, logp)
        wanted = self.rule.choose(self.rule.probabilities(logp))
        wanted = jnp.where(self.forced >= 0, self.forced, wanted)
        verdict = jnp.where(deciding, wanted, verdict)
        # A lane that abstains ends; the token that it ends with is not shown.
        written = self.verdicts[jnp.where(verdict == ABSTAINS, jnp.argmax(logp, -1), verdict)]
        C = len(self.close)
        marker = self.close[jnp.minimum(place, C - 1)]
        token = jnp.select([thinking, closing, deciding], [idea, marker, written], drawn)

        # What follows
        place = place + 1
        closed = closing & (place == C)
        if self.script is None:
            itself = thinking & (place >= C) & self._just_closed(token, tokens_XBT, step)
            thought = jnp.where(itself, place - C, thought)
            closed_by = jnp.where(itself, ClosedBy.MODEL, closed_by)
            closed |= itself
        answering = phase == Phase.ANSWER
        done = answering & (is_any(token, self.stop_tokens) | (place >= self.answer))
        done |= deciding & ((verdict == ABSTAINS) | (self.answer == 0))
        phase = jnp.where(closed, Phase.DECIDE, jnp.where(deciding, Phase.ANSWER, phase))
        place = jnp.where(closed | deciding, 0, place)
        return token, done, Known(phase, place, thought, closed_by, logp, verdict)

    def _read(self, logits_XBV, deciding: Bool[Array, "X B"], logp_XB3):
        """The verdicts' log-probabilities of the lanes that decide now, kept for the others."""

        def read():
            total_XB = jax.nn.logsumexp(logits_XBV, axis=-1)
            found_XB3 = logits_XBV[..., self.verdicts] - total_XB[..., None]
            return jnp.where(deciding[..., None], found_XB3, logp_XB3)

        return jax.lax.cond(deciding.any(), read, lambda: logp_XB3)

    def _just_closed(self, token_XB, tokens_XBT, step) -> Bool[Array, "X B"]:
        """Whether the last tokens, this one included, are the closing marker."""
        C = len(self.close)
        last = token_XB == self.close[-1]
        if C == 1 or tokens_XBT.shape[-1] < C:
            return last & (C == 1)
        # Clamped at the start, where fewer tokens have been said than the marker has.
        before = jax.lax.dynamic_slice_in_dim(tokens_XBT, step - (C - 1), C - 1, axis=2)
        return last & (before == self.close[:-1]).all(-1)
