"""Verdicts of every prompt at every exit: think, decide, answer; and what would change a verdict.

After the lanes have spoken, *children* go on from what they thought, a few to each lane: one per
cut of the thought, or one per verdict that is forced on it. They share the lane's cache of it.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.decode import Lanes, Order, Parent, decode, prefill
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.generation import DEFAULT_BUDGET, check_room, split
from jaxdepth.depth.lanes import memory, plan_segments
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard
from jaxdepth.refusal.deliberate import Deliberate, Rule
from jaxdepth.refusal.protocol import Markers


class Decided(NamedTuple):
    """What every lane thought, decided and answered. Axes: B prompts, E exits, M votes."""

    tokens: Int[np.ndarray, "B E M T"]  # thought, closing marker, verdict, answer
    lengths: Int[np.ndarray, "B E M"]
    thought: Int[np.ndarray, "B E M"]  # its tokens; what is shown begins `marker + 1` after them
    closed_by: Int[np.ndarray, "B E M"]  # `deliberate.ClosedBy`
    logp: Float[np.ndarray, "B E M 3"]  # of the verdict tokens among all tokens, natural
    verdict: Int[np.ndarray, "B E M"]  # 0 to 2 as `VERDICTS`, 3 where it abstains
    cut_logp: Float[np.ndarray, "B E M cuts 3"]  # after the first tokens of the thought only
    forced: Int[np.ndarray, "B E M 3 A"]  # the answer after each verdict, whatever was decided
    forced_lengths: Int[np.ndarray, "B E M 3"]


def decide(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exits: Sequence[int],
    markers: Markers,
    *,
    thought_tokens: int,
    answer_tokens: int,
    votes: int = 1,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    rule: Rule = Rule(),  # noqa: B008
    seeds_B: Sequence[int] | None = None,
    stop_tokens: Sequence[int] = (),
    cuts: Sequence[int] = (),
    force: bool = False,
    thoughts: tuple[Int[np.ndarray, "B E M N"], Int[np.ndarray, "B E M"]] | None = None,
    verdict: int | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> Decided:
    """Lets every prompt think at every exit, decide, and answer.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: prompts with the opening of a thought, right-padded.
        lengths_B: the real length of each.
        exits: which exits, in any order, each 1..L.
        markers: from `resolve_markers`.
        thought_tokens: the longest thought, N; 0 decides at once.
        answer_tokens: the longest answer, A; 0 only decides.
        votes: thoughts per prompt and exit, M.
        sampling: of thoughts and answers; greedy by default.
        rule: from probabilities to a verdict.
        seeds_B: a seed per prompt, as in `jaxdepth.generate`.
        stop_tokens: token ids that end an answer. One that would end a thought closes it.
        cuts: also decides after only so many tokens of each thought (fewer if it is shorter).
        force: also answers after each of the verdicts.
        thoughts: token ids and lengths of thoughts to decide upon instead of own ones.
        verdict: the number of one that is written whatever the lane thinks.
        memory_budget: bytes that caches and logits may hold.

    Returns:
        What each lane did, as numpy arrays. Nothing depends on what else is in the batch.

    Raises:
        InputError: an argument is out of range, or one lane alone exceeds the budget.
    """
    check_tokens(model, tokens_BS, lengths_B)
    exits = [int(e) for e in exits]
    C = len(markers.close)
    N, A = thought_tokens, answer_tokens
    T = N + C + 1 + A
    _check(model, exits, np.shape(tokens_BS)[1] + T - A, N, A, votes, cuts)
    tokens_BS, lengths_B = np.asarray(tokens_BS), np.asarray(lengths_B)
    B, E, M, S = len(lengths_B), len(exits), votes, tokens_BS.shape[1]
    seeds_B = np.arange(B) if seeds_B is None else np.asarray(seeds_B)

    def bytes_of(prompts: int, part: Sequence[int], samples: int) -> int:
        shape = model.config, plan_segments(part), prompts, S
        itemsize = model.embed[...].dtype.itemsize
        held = functools.partial(memory, *shape, itemsize=itemsize, mesh=model.mesh)
        need = held(T, samples).total
        extra = [held(C + 1, samples * len(cuts)).total] if cuts else [0]
        if force:
            extra.append(held(C + 1 + A, samples * 3).total)
        return need + max(extra)

    found = Decided(
        np.zeros((B, E, M, T), np.int32),
        *(np.zeros((B, E, M), np.int32) for _ in range(3)),
        np.zeros((B, E, M, 3), np.float32),
        np.zeros((B, E, M), np.int32),
        np.zeros((B, E, M, len(cuts), 3), np.float32),
        np.zeros((B, E, M, 3 if force else 0, A), np.int32),
        np.zeros((B, E, M, 3 if force else 0), np.int32),
    )
    build = functools.partial(
        Deliberate,
        close=jnp.asarray(markers.close, jnp.int32),
        verdicts=jnp.asarray(markers.verdicts, jnp.int32),
        stop_tokens=jnp.asarray(tuple(stop_tokens), jnp.int32),
        sampling=sampling,
        rule=rule,
    )
    for group in split(bytes_of, exits, B, M, memory_budget, model.mesh):
        rows, full, places, chosen = group
        part = [exits[p] for p in places]
        batch = _Batch(model, tokens_BS[full], lengths_B[full], part, seeds_B[full], chosen)
        mine = np.ix_(rows, places, chosen)

        budgets, script = jnp.full((1, 1), N), None
        if thoughts is not None:
            script, budgets = (batch.streams(t[np.ix_(full, places, chosen)]) for t in thoughts)
        own = jnp.full((1, 1), -1 if verdict is None else verdict)
        talk = build(budgets=budgets, forced=own, script=script, answer=jnp.int32(A))
        said = batch.speak(talk, T, keep=bool(cuts or force))
        lanes = said.state._asdict() | {"tokens": said.tokens_XBT, "lengths": said.lengths_XB}
        for name in ("tokens", "lengths", "thought", "closed_by", "logp", "verdict"):
            getattr(found, name)[mine] = batch.back(lanes[name])[: len(rows)]

        child = functools.partial(build, budgets=jnp.full((1, 1), -1), script=None)
        if cuts:
            cuts_XCB = jnp.minimum(np.array(cuts)[:, None], said.state.thought[:, None])
            talk = child(forced=jnp.full((1, 1), -1), answer=jnp.int32(0))
            after = batch.fork(said, cuts_XCB, talk, C + 1)
            found.cut_logp[mine] = batch.back(after.state.logp, len(cuts))[: len(rows)]
        if force:
            cuts_XCB = jnp.repeat(said.state.thought[:, None], 3, axis=1)
            each_XB = jnp.tile(jnp.arange(3), len(cuts_XCB))[:, None]
            talk = child(forced=each_XB, answer=jnp.int32(A))
            after = batch.fork(said, cuts_XCB, talk, C + 1 + A)
            answers, lengths = after.tokens_XBT[..., C + 1 :], after.lengths_XB - (C + 1)
            found.forced[mine] = batch.back(answers, 3)[: len(rows)]
            found.forced_lengths[mine] = batch.back(lengths, 3)[: len(rows)]
    return found


class _Batch:
    """Prompts, exits and votes that fit at once: their prompt cache, and their lanes as streams."""

    def __init__(self, model, tokens_BS, lengths_B, exits, seeds_B, votes):
        self.model, self.votes = model, len(votes)
        self.order, self.plan = Order(exits), plan_segments(exits)
        self.lengths_B = shard(np.asarray(lengths_B, np.int32), "B", model.mesh)
        self.keys_XB = self.order.streams(lane_keys(seeds_B, exits, votes))
        self.cache, picked_EBD = prefill(
            model,
            shard(tokens_BS, "BS", model.mesh),
            self.lengths_B,
            self.order.exits_E,
            self.plan[-1].last,
        )
        self.picked_XBD = jnp.repeat(picked_EBD, self.votes, axis=0)

    def speak(self, talk: Deliberate, new_tokens: int, keep: bool) -> Lanes:
        """All lanes from the end of their prompts."""
        return self._decode(self.picked_XBD, talk, new_tokens, None, 1, keep)

    def fork(self, said: Lanes, cuts_XCB: Array, talk: Deliberate, new_tokens: int) -> Lanes:
        """Children of every lane; each sees that many tokens of its thought and begins to close."""
        children, B = cuts_XCB.shape[1:]
        cuts_XB = cuts_XCB.reshape(-1, B)
        # What a child says first is given, so nothing is read from where it stands.
        nothing_XBD = jnp.zeros((*cuts_XB.shape, self.picked_XBD.shape[-1]), self.picked_XBD.dtype)
        parent = Parent(said.caches, cuts_XB)
        return self._decode(nothing_XBD, talk, new_tokens, parent, children, False)

    def _decode(self, picked_XBD, talk, new_tokens, parent, children, keep) -> Lanes:
        samples = self.votes * children
        return decode(
            self.model,
            self.cache,
            picked_XBD,
            self.lengths_B,
            jnp.repeat(self.order.exits_E, samples),
            jnp.repeat(self.keys_XB, children, axis=0),
            talk,
            parent,
            plan=self.plan,
            samples=samples,
            max_new_tokens=new_tokens,
            keep_caches=keep,
        )

    def streams(self, array_BEM: np.ndarray) -> Array:
        """(B, E, M, ...) as (X, B, ...)."""
        return self.order.streams(jnp.asarray(np.moveaxis(array_BEM, 0, 2), jnp.int32))

    def back(self, array_X: Array, children: int | None = None) -> np.ndarray:
        """(X, B, ...) as (B, E, M, ...), or with children as (B, E, M, children, ...)."""
        array_EMB = self.order.back(array_X)
        if children is None:
            return np.moveaxis(array_EMB, 2, 0)
        shape = (len(array_EMB), self.votes, children, *array_EMB.shape[2:])
        return np.moveaxis(array_EMB.reshape(shape), 3, 0)


def shown(decided: Decided, markers: Markers, b: int, e: int, m: int) -> np.ndarray:
    """The token ids that a user sees: exactly those after the verdict."""
    start = decided.thought[b, e, m] + len(markers.close) + 1
    return decided.tokens[b, e, m, start : decided.lengths[b, e, m]]


def _check(model, exits, length, thought_tokens, answer_tokens, votes, cuts) -> None:
    if not exits:
        raise InputError("no exits: name at least one")
    for exit in exits:
        check_exits(exit, model.config.num_hidden_layers)
    at_least(0, thought_tokens=thought_tokens, answer_tokens=answer_tokens)
    at_least(1, votes=votes)
    at_least(0, **{"a cut": min(cuts, default=0)})
    check_room(model.config, length, answer_tokens)
