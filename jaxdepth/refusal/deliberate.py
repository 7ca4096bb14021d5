"""Think, then decide: a sampler that runs a state machine for every lane, on device.

    think -> close -> decide -> answer

A thought ends when the model writes the closing marker, when its token budget is spent, or when the
model would end its reply; in the last two cases the sampler writes the marker. The next position's
distribution over the verdict tokens decides; the verdict is written, and what follows it is the
answer. A lane moves on by the positions of generated tokens alone: no text is searched, so nothing
in a prompt can change a lane's phase.
"""

import functools
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdepth.depth.sampling import Sampling, choose, is_any
from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray

ABSTAINS = 3  # the number of the verdict where the margin is too small; 0 to 2 are `VERDICTS`


class Phase(IntEnum):
    """The phase of a lane."""

    THINK = 0
    CLOSE = 1
    DECIDE = 2
    ANSWER = 3


class ClosedBy(IntEnum):
    """What ended a thought."""

    MODEL = 0  # the model wrote the closing marker
    BUDGET = 1  # its token budget was spent
    END = 2  # the model would have ended its reply
    CUT = 3  # the thought was given, or truncated


@dataclass(frozen=True)
class Rule:
    """Choose a verdict from the probabilities of the three."""

    temperature: float = 1.0  # divides their log-probabilities; fitted on a validation split
    refuse_from: float | None = None  # minimum of P(refuse) for refuse
    caution_from: float | None = None  # minimum of P(refuse) + P(partial) for partial
    abstain_below: float = 0.0  # minimum lead of the first verdict over the second

    def __post_init__(self):
        if not self.temperature > 0:
            raise InputError(f"the verdict temperature is {self.temperature}, expected above 0")
        if (self.refuse_from is None) != (self.caution_from is None):
            raise InputError("refuse_from and caution_from belong together: give both or neither")
        for name in ("refuse_from", "caution_from", "abstain_below"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}, expected 0 to 1")

    def probabilities(self, logp: Float[AnyArray, "... 3"]) -> Float[Array, "... 3"]:
        """Probabilities of refuse, partial and comply, renormalised to sum to 1."""
        return jax.nn.softmax(logp / self.temperature, axis=-1)

    def choose(self, p: Float[AnyArray, "... 3"]) -> Int[Array, "..."]:
        """The number of a verdict, 0 to 2, or `ABSTAINS`."""
        if self.refuse_from is None or self.caution_from is None:
            chosen = jnp.argmax(p, axis=-1)
        else:
            caution = p[..., 0] + p[..., 1] >= self.caution_from
            chosen = jnp.where(p[..., 0] >= self.refuse_from, 0, jnp.where(caution, 1, 2))
        return jnp.where(margin(p) < self.abstain_below, ABSTAINS, chosen).astype(jnp.int32)


def margin(p: Float[AnyArray, "... 3"]) -> Float[Array, "..."]:
    """The most probable verdict's lead over the second."""
    ordered = jnp.sort(p, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


class DeliberationState(NamedTuple):
    """The state of each lane, carried from token to token."""

    phase: Int[Array, "X B"]
    place: Int[Array, "X B"]  # tokens so far in this phase
    thought: Int[Array, "X B"]  # length of the thought, once it has ended
    closed_by: Int[Array, "X B"]
    logp: Float[Array, "X B 3"]  # of the verdict tokens among all tokens, natural
    verdict: Int[Array, "X B"]  # -1 before it is decided
    finite: Bool[Array, "X B"]  # False: logits that were read are NaN or infinite; the lane ends


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["close", "verdicts", "stop_tokens", "budgets", "forced", "script", "answer"],
    meta_fields=["sampling", "rule", "hides_prompt"],
)
@dataclass(frozen=True)
class DeliberationSampler:
    """A `Sampler` for lanes that think, decide and answer."""

    close: Int[Array, " marker"]  # the closing marker's token ids
    verdicts: Int[Array, " 3"]  # the verdicts' token ids
    stop_tokens: Int[Array, " stops"]
    budgets: Int[Array, "#X #B"]  # maximum length of a thought; -1 for lanes that begin by closing
    forced: Int[Array, "#X #B"]  # the number of a verdict that is forced, or -1
    script: Int[Array, "X B thought"] | None  # given thoughts, of the lengths in `budgets`
    answer: Int[Array, ""] | Int[Array, "#X #B"]  # maximum length of an answer
    sampling: Sampling
    rule: Rule
    # The closing marker, after which the verdict is read, does not attend to the prompt.
    hides_prompt: bool = False

    def start(self, X: int, B: int) -> DeliberationState:
        zero = jnp.zeros((X, B), jnp.int32)
        begins_closing = jnp.broadcast_to(self.budgets < 0, (X, B))
        return DeliberationState(
            phase=jnp.where(begins_closing, Phase.CLOSE, Phase.THINK).astype(jnp.int32),
            place=zero,
            thought=zero,
            closed_by=jnp.where(begins_closing, ClosedBy.CUT, ClosedBy.BUDGET).astype(jnp.int32),
            logp=jnp.zeros((X, B, 3), jnp.float32),
            verdict=zero - 1,
            finite=jnp.ones((X, B), bool),
        )

    def next(
        self,
        state: DeliberationState,
        logits_XBV: Float[Array, "X B V"],
        tokens_XBT: Int[Array, "X B T"],
        step: Int[Array, ""],
        keys_XB: Key[Array, "X B"],
    ) -> tuple[Int[Array, "X B"], Bool[Array, "X B"], DeliberationState]:
        sampled = choose(logits_XBV, keys_XB, step, self.sampling)
        phase, place, thought, closed_by, logp, verdict, finite = state

        # Does the thought end here?
        thinking = phase == Phase.THINK
        full = thinking & (place >= self.budgets)
        if self.script is None:
            would_end = thinking & ~full & is_any(sampled, self.stop_tokens)
            thought_token = sampled
        else:
            would_end = jnp.zeros_like(full)
            at = jnp.minimum(place, self.script.shape[-1] - 1)
            thought_token = jnp.take_along_axis(self.script, at[..., None], axis=-1)[..., 0]
            closed_by = jnp.where(full, ClosedBy.CUT, closed_by)
        closed_by = jnp.where(would_end, ClosedBy.END, closed_by)
        stops = full | would_end
        thought = jnp.where(stops, place, thought)
        phase = jnp.where(stops, Phase.CLOSE, phase)
        place = jnp.where(stops, 0, place)

        # The token of this position
        thinking, closing, deciding = (phase == p for p in (Phase.THINK, Phase.CLOSE, Phase.DECIDE))
        logp = self._read(logits_XBV, deciding, logp)
        chosen = self.rule.choose(self.rule.probabilities(logp))
        chosen = jnp.where(self.forced >= 0, self.forced, chosen)
        verdict = jnp.where(deciding, chosen, verdict)
        # A lane that abstains ends, with the token of the most probable verdict.
        written = self.verdicts[jnp.where(verdict == ABSTAINS, jnp.argmax(logp, -1), verdict)]
        marker_length = len(self.close)
        marker = self.close[jnp.minimum(place, marker_length - 1)]
        token = jnp.select([thinking, closing, deciding], [thought_token, marker, written], sampled)

        answering = phase == Phase.ANSWER
        samples = answering if self.script is not None else answering | thinking
        finite &= ~samples | jnp.isfinite(
            jnp.take_along_axis(logits_XBV, sampled[..., None], axis=-1)[..., 0]
        )
        finite &= ~deciding | jnp.isfinite(logp).all(axis=-1)

        # The next phase
        place = place + 1
        closed = closing & (place == marker_length)
        if self.script is None:
            by_model = thinking & (place >= marker_length)
            by_model &= self._just_closed(token, tokens_XBT, step)
            thought = jnp.where(by_model, place - marker_length, thought)
            closed_by = jnp.where(by_model, ClosedBy.MODEL, closed_by)
            closed |= by_model
        done = answering & (is_any(token, self.stop_tokens) | (place >= self.answer))
        done |= deciding & ((verdict == ABSTAINS) | (self.answer == 0))
        done |= ~finite
        phase = jnp.where(closed, Phase.DECIDE, jnp.where(deciding, Phase.ANSWER, phase))
        place = jnp.where(closed | deciding, 0, place)
        return (
            token,
            done,
            DeliberationState(phase, place, thought, closed_by, logp, verdict, finite),
        )

    def reads_prompt(self, state: DeliberationState) -> Bool[Array, "X B"] | None:
        if not self.hides_prompt:
            return None
        # The last token of the closing marker has just been chosen where a verdict comes next.
        return state.phase != Phase.DECIDE

    def _read(
        self,
        logits_XBV: Float[Array, "X B V"],
        deciding: Bool[Array, "X B"],
        logp_XB3: Float[Array, "X B 3"],
    ) -> Float[Array, "X B 3"]:
        """The verdicts' log-probabilities, renewed for the lanes that decide now."""

        def read():
            total_XB = jax.nn.logsumexp(logits_XBV, axis=-1)
            new_XB3 = logits_XBV[..., self.verdicts] - total_XB[..., None]
            return jnp.where(deciding[..., None], new_XB3, logp_XB3)

        return jax.lax.cond(deciding.any(), read, lambda: logp_XB3)

    def _just_closed(
        self, token_XB: Int[Array, "X B"], tokens_XBT: Int[Array, "X B T"], step: Int[Array, ""]
    ) -> Bool[Array, "X B"]:
        """Whether the last tokens, this one included, are the closing marker."""
        length = len(self.close)
        last = token_XB == self.close[-1]
        if length == 1 or tokens_XBT.shape[-1] < length:
            return last & (length == 1)
        # The slice is clamped at the start, before there are as many tokens as the marker has.
        before = jax.lax.dynamic_slice_in_dim(tokens_XBT, step - (length - 1), length - 1, axis=2)
        return last & (before == self.close[:-1]).all(-1)
