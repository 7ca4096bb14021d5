"""The decoding loop: one prefill, then all lanes in one compiled `while_loop`.

Each step reads every layer's weights once for all lanes; a lane's logits come from the residual
stream after its own exit. What a lane says, given its logits, is decided by a `Talk`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.lanes import Plan
from jaxdepth.depth.layer_scan import at_exits, at_positions, scan_layers
from jaxdepth.depth.talk import Talk
from jaxdepth.model.cache import (
    Kept,
    LaneCache,
    PromptCache,
    attend_lane,
    attend_parent,
    attend_prompt,
    attend_self,
    write_step,
)
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain, shard, to_host


class Parent(NamedTuple):
    """What lanes go on from: the words of other lanes, of which each child sees a part.

    The streams of children lie beside each other: child c of stream p is stream p * children + c.
    """

    caches: tuple[LaneCache, ...]  # one per segment, of the same plan
    cuts_XB: Int[Array, "X B"]  # how many tokens of its parent each child sees


class Lanes(NamedTuple):
    """What lanes have said, and what they know; streams run from deep to shallow."""

    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]  # the last token counts
    state: Any  # of the talk
    caches: tuple[LaneCache, ...]  # empty unless they are kept


class Found(NamedTuple):
    """The same, on the host, in the order of the exits."""

    tokens: Int[np.ndarray, "E M B T"]
    lengths: Int[np.ndarray, "E M B"]
    state: Any


class Order:
    """Exits in any order, as streams from deep to shallow, and back."""

    def __init__(self, exits: Sequence[int]):
        self._order = np.argsort(-np.asarray(exits), kind="stable")
        self.exits_E = np.asarray(exits, np.int32)[self._order]

    def streams(self, array_EM):
        """(E, M, ...) as (X, ...)."""
        array_EM = array_EM[self._order]
        return array_EM.reshape(-1, *array_EM.shape[2:])

    def back(self, array_X: Array) -> np.ndarray:
        """(X, ...) as (E, M, ...)."""
        shape = (len(self._order), -1, *array_X.shape[1:])
        return to_host(array_X).reshape(shape)[np.argsort(self._order)]


def run_lanes(
    model: Mistral,
    tokens_BS,
    lengths_B,
    exits: Sequence[int],
    max_new_tokens: int,
    talk: Talk,
    keys_EMB,
    plan: Plan,
) -> Found:
    """One batch that fits: prefill and decode, the talk's arrays being in the order of streams."""
    order, samples = Order(exits), keys_EMB.shape[1]
    lengths_B = shard(np.asarray(lengths_B, np.int32), "B", model.mesh)
    tokens_BS = shard(tokens_BS, "BS", model.mesh)
    cache, picked_EBD = prefill(model, tokens_BS, lengths_B, order.exits_E, plan[-1].last)
    said = decode(
        model,
        cache,
        jnp.repeat(picked_EBD, samples, axis=0),
        lengths_B,
        np.repeat(order.exits_E, samples),
        order.streams(keys_EMB),
        talk,
        plan=plan,
        samples=samples,
        max_new_tokens=max_new_tokens,
    )
    return Found(
        order.back(said.tokens_XBT),
        order.back(said.lengths_XB),
        jax.tree.map(order.back, said.state),
    )


@functools.partial(jax.jit, static_argnames="depth")
def prefill(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exits_E: Int[Array, " E"],
    depth: int,
) -> tuple[PromptCache, Float[Array, "E B D"]]:
    """One pass over the prompts: the cache of `depth` layers, and each exit's stream at the end."""

    def read(output):
        k_BKSH, v_BKSH = output.k_BSKH.swapaxes(1, 2), output.v_BSKH.swapaxes(1, 2)
        return at_positions(output.h_BSD, lengths_B - 1), k_BKSH, v_BKSH

    h_BSD = model.embed_tokens(tokens_BS)
    _, (last_LBD, *cache) = scan_layers(model, h_BSD, read, depth=depth)
    cache = PromptCache(*(constrain(part, "LBKSH", model.mesh) for part in cache))
    return cache, constrain(at_exits(last_LBD, exits_E), "EBD", model.mesh)


@functools.partial(jax.jit, static_argnames=("plan", "samples", "max_new_tokens", "keep_caches"))
def decode(
    model: Mistral,
    cache: PromptCache,
    picked_XBD: Float[Array, "X B D"],
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    keys_XB: Array,
    talk: Talk,
    parent: Parent | None = None,
    *,
    plan: Plan,
    samples: int,
    max_new_tokens: int,
    keep_caches: bool = False,
) -> Lanes:
    """The loop over new tokens; ends when every lane has ended.

    Args:
        model: the model.
        cache: of the prompts.
        picked_XBD: each stream's residual stream after its exit, at the last token that it knows.
        lengths_B: lengths of the prompts.
        exits_X: the exit of each stream, deep to shallow.
        keys_XB: a random key per lane.
        talk: what a lane says next.
        parent: other lanes whose words these go on from.
        plan: the staircase.
        samples: streams per exit.
        max_new_tokens: the most tokens that a lane says.
        keep_caches: whether the lane caches are given back.
    """
    X, B, _ = picked_XBD.shape
    c, T = model.config, max_new_tokens
    dtype = picked_XBD.dtype

    def empty(segment):
        layers, streams = segment.last - segment.first, segment.exits * samples
        shape = (layers, streams, B, c.num_key_value_heads, T, c.head_dim)
        zeros = constrain(jnp.zeros(shape, dtype), "LXBKTH", model.mesh)
        return LaneCache(zeros, zeros)

    def say(known, picked_XBD, tokens_XBT, step):
        logits_XBV = constrain(model.unembed(picked_XBD), "XBV", model.mesh)
        with jax.named_scope("choose"):
            return talk.next(known, logits_XBV, tokens_XBT, step, keys_XB)

    tokens_XBT = constrain(jnp.zeros((X, B, T), jnp.int32), "XBT", model.mesh)
    first_XB, done_XB, known = say(talk.start(X, B), picked_XBD, tokens_XBT, jnp.int32(0))
    state = (
        jnp.int32(0),
        done_XB,
        tokens_XBT.at[:, :, 0].set(first_XB),
        jnp.ones((X, B), jnp.int32),
        known,
        tuple(map(empty, plan)),
    )

    def going(state):
        step, done_XB, *_ = state
        return (step < T - 1) & ~done_XB.all()

    def advance(state):
        step, done_XB, tokens_XBT, spoken_XB, known, caches = state
        last_XB = jax.lax.dynamic_index_in_dim(tokens_XBT, step, axis=2, keepdims=False)
        picked_XBD, caches = forward(
            model, cache, caches, last_XB, step, lengths_B, exits_X, plan, samples, parent
        )
        next_XB, ends_XB, known = say(known, picked_XBD, tokens_XBT, step + 1)
        next_XB = jnp.where(done_XB, 0, next_XB)
        tokens_XBT = jax.lax.dynamic_update_slice_in_dim(
            tokens_XBT, next_XB[..., None], step + 1, axis=2
        )
        spoken_XB = spoken_XB + ~done_XB
        return step + 1, done_XB | ends_XB, tokens_XBT, spoken_XB, known, caches

    _, _, tokens_XBT, spoken_XB, known, caches = jax.lax.while_loop(going, advance, state)
    return Lanes(tokens_XBT, spoken_XB, known, caches if keep_caches else ())


def forward(
    model: Mistral,
    cache: PromptCache,
    caches: tuple[LaneCache, ...],
    tokens_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    plan: Plan,
    samples: int,
    parent: Parent | None = None,
) -> tuple[Float[Array, "X B D"], tuple[LaneCache, ...]]:
    """One new token of every lane through the staircase: each lane's stream at its exit."""
    h_XBD = constrain(model.embed_tokens(tokens_XB), "XBD", model.mesh)
    positions_XB = (lengths_B + step)[None]
    if parent is not None:
        positions_XB = positions_XB + parent.cuts_XB
    picked_XBD = jnp.full(h_XBD.shape, jnp.nan, h_XBD.dtype)
    written = []
    for n, (segment, lanes) in enumerate(zip(plan, caches, strict=True)):
        streams = segment.exits * samples
        exits_here = exits_X[:streams]
        here_XB = positions_XB[:streams]  # one row serves all, where there are no parents
        rotation = model.rope_at(here_XB)

        def layer(carry, i, n=n, exits_here=exits_here, here_XB=here_XB, rotation=rotation):
            h_XBD, picked_XBD = carry
            of_segment = i - plan[n].first
            block = model.layer(i)
            window = block.window
            q, k_XBKH, v_XBKH = block.project_step(h_XBD, *rotation)
            with jax.named_scope("attend_prompt"):
                parts = [attend_prompt(q, Kept(*cache, i), lengths_B, here_XB, window)]
            with jax.named_scope("attend_lane"):
                parts.append(attend_lane(q, Kept(*caches[n], of_segment), step, window))
                parts.append(attend_self(q, k_XBKH, v_XBKH))
            if parent is not None:
                cuts_XB = parent.cuts_XB[: q.shape[0]]
                of_parent = Kept(*parent.caches[n], of_segment)
                with jax.named_scope("attend_parent"):
                    parts.append(attend_parent(q, of_parent, cuts_XB, step, window))
            h_XBD = constrain(block.finish_step(h_XBD, parts), "XBD", model.mesh)
            here = (i + 1 == exits_here)[:, None, None]
            return (h_XBD, jnp.where(here, h_XBD, picked_XBD)), (k_XBKH, v_XBKH)

        numbers = jnp.arange(segment.first, segment.last)
        start = (h_XBD[:streams], picked_XBD[:streams])
        (h_XBD, picked), new = jax.lax.scan(layer, start, numbers)
        picked_XBD = jax.lax.dynamic_update_slice_in_dim(picked_XBD, picked, 0, axis=0)
        written.append(write_step(lanes, *new, step))
    return picked_XBD, tuple(written)
