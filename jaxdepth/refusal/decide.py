"""Verdicts of every prompt at every exit: think, decide, answer; and interventions on the thought.

After the lanes have been decoded, forks continue from their thoughts, several for each lane: one
    for each length that the thought is truncated to, or one for each verdict that is forced. Forks
    share the lane's cache of the thought as a prefix.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxdepth.depth.decode import (
    DecodedLanes,
    LaneOrder,
    LaneState,
    SharedPrefix,
    advance_lanes,
    decode,
    prefill,
    start_lanes,
)
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.generation import DEFAULT_BUDGET, check_room, split
from jaxdepth.depth.lanes import memory, plan_segments
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.errors import InputError, at_least
from jaxdepth.model import AnyArray, Ints
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard
from jaxdepth.refusal.deliberate import DeliberationSampler, Rule
from jaxdepth.refusal.protocol import Markers


class Decided(NamedTuple):
    """The thought, verdict and answer of every lane; M samples are votes."""

    tokens: Int[np.ndarray, "B E M T"]  # thought, closing marker, verdict, answer
    lengths: Int[np.ndarray, "B E M"]
    thought: Int[np.ndarray, "B E M"]  # its length; the answer begins `len(marker) + 1` later
    closed_by: Int[np.ndarray, "B E M"]  # `deliberate.ClosedBy`
    logp: Float[np.ndarray, "B E M 3"]  # of the verdict tokens among all tokens, natural
    verdict: Int[np.ndarray, "B E M"]  # 0 to 2 as `VERDICTS`, 3 where it abstains, -1 for none
    # False: logits of the thought (then there is no verdict), of the verdict (then `logp` is no
    # number) or of the answer were NaN or infinite, and the lane ended there.
    finite: Bool[np.ndarray, "B E M"]
    cut_logp: Float[np.ndarray, "B E M cuts 3"]  # after the start of the thought only
    forced: Int[np.ndarray, "B E M 3 answer"]  # the answer after each verdict, if it is forced
    forced_lengths: Int[np.ndarray, "B E M 3"]
    forced_finite: Bool[np.ndarray, "B E M 3"]


_STATE_FIELDS = ("thought", "closed_by", "logp", "verdict", "finite")  # of `DeliberationState`


def decide(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    exits: Ints,
    markers: Markers,
    *,
    thought_tokens: int,
    answer_tokens: int,
    votes: int = 1,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    rule: Rule = Rule(),  # noqa: B008
    seeds_B: Ints | None = None,
    stop_tokens: Ints = (),
    cuts: Sequence[int] = (),
    force: bool = False,
    thoughts: tuple[Int[np.ndarray, "B E M thought"], Int[np.ndarray, "B E M"]] | None = None,
    verdict: int | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> Decided:
    """Decode a thought, a verdict and an answer for every prompt at every exit.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids of prompts with the opening of a thought, right-padded.
        lengths_B: the real length of each.
        exits: which exits, in any order, each 1..L.
        markers: from `resolve_markers`.
        thought_tokens: the maximum length of a thought; 0 decides at once.
        answer_tokens: the maximum length of an answer; 0 only decides.
        votes: samples per prompt and exit, M.
        sampling: of thoughts and answers; greedy by default.
        rule: chooses a verdict from probabilities.
        seeds_B: a seed per prompt, as in `jaxdepth.generate`.
        stop_tokens: token ids that end an answer; in a thought they close it.
        cuts: lengths; also decide after each thought, truncated to each of them.
        force: also answer after each of the three verdicts.
        thoughts: token ids and lengths of given thoughts, instead of decoded ones.
        verdict: the number of a verdict that is forced on every lane.
        memory_budget: bytes that caches and logits may take.

    Returns:
        Numpy arrays, in the order of `exits`; none depends on the rest of the batch.

    Raises:
        InputError: an argument is out of range, or one lane alone exceeds the budget.
    """
    check_tokens(model, tokens_BS, lengths_B)
    exits = [int(e) for e in exits]
    closing = len(markers.close) + 1  # tokens of the closing marker and the verdict
    T = thought_tokens + closing + answer_tokens
    length = np.shape(tokens_BS)[1] + thought_tokens + closing
    check_deciding(model, exits, length, thought_tokens, answer_tokens, votes, cuts)
    tokens_BS, lengths_B = np.asarray(tokens_BS), np.asarray(lengths_B)
    B, S = tokens_BS.shape
    seeds_B = np.arange(B) if seeds_B is None else np.asarray(seeds_B)
    decided = empty_decided((B, len(exits), votes), T, len(cuts), 3 if force else 0, answer_tokens)

    def bytes_of(prompts: int, part: Sequence[int], samples: int) -> int:
        shape = model.config, plan_segments(part), prompts, S
        itemsize = model.embed[...].dtype.itemsize
        memory_of = functools.partial(memory, *shape, itemsize=itemsize, mesh=model.mesh)
        forks = [memory_of(closing, samples * len(cuts)).total] if cuts else [0]
        if force:
            forks.append(memory_of(closing + answer_tokens, samples * 3).total)
        return memory_of(T, samples).total + max(forks)

    build = sampler_builder(markers, stop_tokens, sampling, rule)
    for group in split(bytes_of, exits, B, votes, memory_budget, model.mesh):
        rows, columns = group.padded_rows, (np.array(group.exits), np.array(group.samples))
        batch = DecidingBatch(
            model,
            tokens_BS[rows],
            lengths_B[rows],
            [exits[e] for e in group.exits],
            seeds_B[rows],
            group.samples,
            build,
        )
        script, budgets = None, jnp.full((1, 1), thought_tokens)
        if thoughts is not None:
            index = np.ix_(rows, *columns)
            script, budgets = (batch.to_lanes(array_BEM[index]) for array_BEM in thoughts)
        lanes = batch.decode(script, budgets, verdict, T, answer_tokens, keep=bool(cuts or force))
        arrays = batch.read(lanes)
        if cuts:
            arrays["cut_logp"] = batch.decide_after_cuts(lanes, cuts)
        if force:
            arrays |= batch.force(lanes, answer_tokens)
        index = np.ix_(group.rows, *columns)
        for name, array_BEM in arrays.items():
            getattr(decided, name)[index] = array_BEM[: len(group.rows)]
    return decided


def sampler_builder(
    markers: Markers, stop_tokens: Ints, sampling: Sampling, rule: Rule
) -> Callable[..., DeliberationSampler]:
    """A `DeliberationSampler` but for what differs between the lanes of one call."""
    return functools.partial(
        DeliberationSampler,
        close=jnp.asarray(markers.close, jnp.int32),
        verdicts=jnp.asarray(markers.verdicts, jnp.int32),
        stop_tokens=jnp.asarray(tuple(stop_tokens), jnp.int32),
        sampling=sampling,
        rule=rule,
        hides_prompt=markers.verdict_reads == "thought",
    )


def empty_decided(
    lanes: tuple[int, int, int], new_tokens: int, cuts: int, forced: int, answer_tokens: int
) -> Decided:
    """Arrays for the lanes (B, E, M), to be filled batch by batch."""

    def zeros(*axes: int, dtype: type = np.int32) -> np.ndarray:
        return np.zeros((*lanes, *axes), dtype)

    return Decided(
        tokens=zeros(new_tokens),
        lengths=zeros(),
        thought=zeros(),
        closed_by=zeros(),
        logp=zeros(3, dtype=np.float32),
        verdict=zeros(),
        finite=zeros(dtype=bool),
        cut_logp=zeros(cuts, 3, dtype=np.float32),
        forced=zeros(forced, answer_tokens),
        forced_lengths=zeros(forced),
        forced_finite=zeros(forced, dtype=bool),
    )


class DecidingBatch:
    """A batch of prompts, exits and votes: its prompt cache, and how its lanes are decoded."""

    def __init__(
        self,
        model: Mistral,
        tokens_BS: Int[np.ndarray, "B S"],
        lengths_B: Int[np.ndarray, " B"],
        exits: Sequence[int],
        seeds_B: Ints,
        votes: Sequence[int],
        build_sampler: Callable[..., DeliberationSampler],
    ):
        self.model, self.votes, self.build_sampler = model, len(votes), build_sampler
        self.order, self.plan = LaneOrder(exits), plan_segments(exits)
        self.lengths_B = shard(np.asarray(lengths_B, np.int32), "B", model.mesh)
        self.keys_XB = self.order.to_lanes(lane_keys(seeds_B, exits, votes))
        self.cache, picked_EBD = prefill(
            model,
            shard(tokens_BS, "BS", model.mesh),
            self.lengths_B,
            self.order.exits_E,
            self.plan[-1].last,
        )
        self.picked_XBD = jnp.repeat(picked_EBD, self.votes, axis=0)

    def decode(
        self,
        script: Int[Array, "X B thought"] | None,
        budgets: Int[Array, "#X #B"],
        verdict: int | None,
        new_tokens: int,
        answer_tokens: int,
        keep: bool,
    ) -> DecodedLanes:
        """Decode all lanes from the end of their prompts; `keep` keeps their caches for forks."""
        sampler = self.build_sampler(
            budgets=budgets,
            forced=jnp.full((1, 1), -1 if verdict is None else verdict),
            script=script,
            answer=jnp.int32(answer_tokens),
        )
        return self._decode(self.picked_XBD, sampler, new_tokens, None, 1, keep)

    def start(self, sampler: DeliberationSampler, new_tokens: int) -> LaneState:
        """The lanes with their first tokens."""
        return start_lanes(
            self.model,
            self.picked_XBD,
            jnp.repeat(self.order.exits_E, self.votes),
            self.keys_XB,
            sampler,
            plan=self.plan,
            samples=self.votes,
            max_new_tokens=new_tokens,
        )

    def advance(self, state: LaneState, sampler: DeliberationSampler, until: int) -> LaneState:
        """The lanes with `until` tokens, or with all that they have."""
        return advance_lanes(
            state,
            self.model,
            self.cache,
            self.lengths_B,
            jnp.repeat(self.order.exits_E, self.votes),
            self.keys_XB,
            sampler,
            jnp.int32(until),
            plan=self.plan,
            samples=self.votes,
        )

    def read(self, lanes: DecodedLanes) -> dict[str, np.ndarray]:
        """What lanes decoded and decided, by the fields of `Decided`."""
        arrays = {"tokens": lanes.tokens_XBT, "lengths": lanes.lengths_XB}
        arrays |= {name: getattr(lanes.sampler_state, name) for name in _STATE_FIELDS}
        return {name: self.to_exits(array_XB) for name, array_XB in arrays.items()}

    def decide_after_cuts(
        self, lanes: DecodedLanes, cuts: Sequence[int]
    ) -> Float[np.ndarray, "B E M cuts 3"]:
        """Log-probabilities of the verdicts after each thought, truncated to some lengths.

        NaN where the thought came of NaN or infinity.
        """
        thought_XB = lanes.sampler_state.thought
        lengths = jnp.minimum(np.array(cuts)[:, None], thought_XB[:, None])
        forks = self._fork(lanes, lengths, jnp.full((1, 1), -1), answer_tokens=0)
        has_thought_XB = jnp.repeat(_has_thought(lanes), len(cuts), axis=0)
        logp_XB3 = jnp.where(has_thought_XB[..., None], forks.sampler_state.logp, jnp.nan)
        return self.to_exits(logp_XB3, len(cuts))

    def force(self, lanes: DecodedLanes, answer_tokens: int) -> dict[str, np.ndarray]:
        """Answers after each of the three verdicts, by the fields of `Decided`."""
        lengths = jnp.repeat(lanes.sampler_state.thought[:, None], 3, axis=1)
        forced_XB = jnp.tile(jnp.arange(3), len(lengths))[:, None]
        forks = self._fork(lanes, lengths, forced_XB, answer_tokens)
        closing = forks.tokens_XBT.shape[-1] - answer_tokens
        answers_XBT = forks.tokens_XBT[..., closing:]
        finite_XB = forks.sampler_state.finite & jnp.repeat(_has_thought(lanes), 3, axis=0)
        arrays = {"forced": answers_XBT, "forced_finite": finite_XB}
        arrays["forced_lengths"] = forks.lengths_XB - closing
        return {name: self.to_exits(array_XB, 3) for name, array_XB in arrays.items()}

    def _fork(
        self,
        lanes: DecodedLanes,
        prefix_lengths: Int[Array, "X forks B"],
        forced_XB: Int[Array, "#X #B"],
        answer_tokens: int,
    ) -> DecodedLanes:
        """Decode forks of every lane, which truncate its thought to some lengths and close it."""
        sampler = self.build_sampler(
            budgets=jnp.full((1, 1), -1),
            forced=forced_XB,
            script=None,
            answer=jnp.int32(answer_tokens),
        )
        forks, B = prefix_lengths.shape[1:]
        prefix = SharedPrefix(lanes.caches, prefix_lengths.reshape(-1, B))
        # The first token of a fork is given, so its residual stream is not read.
        shape = (*prefix.lengths_XB.shape, self.picked_XBD.shape[-1])
        zeros_XBD = jnp.zeros(shape, self.picked_XBD.dtype)
        new_tokens = len(sampler.close) + 1 + answer_tokens
        return self._decode(zeros_XBD, sampler, new_tokens, prefix, forks, False)

    def _decode(
        self,
        picked_XBD: Float[Array, "X B D"],
        sampler: DeliberationSampler,
        new_tokens: int,
        prefix: SharedPrefix | None,
        forks: int,
        keep: bool,
    ) -> DecodedLanes:
        samples = self.votes * forks
        return decode(
            self.model,
            self.cache,
            picked_XBD,
            self.lengths_B,
            jnp.repeat(self.order.exits_E, samples),
            jnp.repeat(self.keys_XB, forks, axis=0),
            sampler,
            prefix,
            plan=self.plan,
            samples=samples,
            max_new_tokens=new_tokens,
            keep_caches=keep,
        )

    def to_lanes(self, array_BEM: Int[np.ndarray, "B E M ..."]) -> Int[Array, "X B ..."]:
        """An array of prompts, exits and votes, by lane."""
        return self.order.to_lanes(jnp.asarray(np.moveaxis(array_BEM, 0, 2), jnp.int32))

    def to_exits(self, array_XB: Shaped[Array, "X B ..."], forks: int | None = None) -> np.ndarray:
        """An array of lanes as (B, E, M, ...); of their forks as (B, E, M, forks, ...)."""
        array_EMB = self.order.to_exits(array_XB)
        if forks is None:
            return np.moveaxis(array_EMB, 2, 0)
        shape = (len(array_EMB), self.votes, forks, *array_EMB.shape[2:])
        return np.moveaxis(array_EMB.reshape(shape), 3, 0)


def _has_thought(lanes: DecodedLanes) -> Bool[Array, "X B"]:
    """Which lanes have a thought from finite logits only: they have come to a verdict."""
    return lanes.sampler_state.verdict >= 0


def shown(decided: Decided, markers: Markers, b: int, e: int, m: int) -> Int[np.ndarray, " T"]:
    """The token ids that a user would see: exactly those after the verdict."""
    start = decided.thought[b, e, m] + len(markers.close) + 1
    return decided.tokens[b, e, m, start : decided.lengths[b, e, m]]


def check_deciding(
    model: Mistral,
    exits: list[int],
    length: int,
    thought_tokens: int,
    answer_tokens: int,
    votes: int = 1,
    cuts: Sequence[int] = (),
) -> None:
    """Raise InputError for an argument of `decide` that is out of range.

    `length` is that of the prompt, the thought, the closing marker and the verdict.
    """
    if not exits:
        raise InputError("no exits: name at least one")
    check_exits(exits, model.config.num_hidden_layers)
    at_least(0, thought_tokens=thought_tokens, answer_tokens=answer_tokens)
    at_least(1, votes=votes)
    at_least(0, **{"a cut": min(cuts, default=0)})
    check_room(model.config, length, answer_tokens)
