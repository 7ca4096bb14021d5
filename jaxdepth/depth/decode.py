"""The decoding loop: one prefill, then all lanes in one compiled `while_loop`.

Each step reads every layer's weights once for all lanes; a lane's logits come from the residual
stream after its own exit. A `Sampler` chooses each lane's token from its logits.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxdepth.depth.lanes import Plan, Segment
from jaxdepth.depth.layer_scan import LayerOutput, at_exits, at_positions, over_layers, scan_layers
from jaxdepth.depth.sampling import Sampler
from jaxdepth.model import Ints
from jaxdepth.model.cache import (
    CachesApart,
    LaneCache,
    LayerCache,
    PromptCache,
    attend_own,
    attend_prefix,
    attend_prompt,
    slice_cache,
    write_step,
)
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain, to_host


class SharedPrefix(NamedTuple):
    """Lanes whose first new tokens are the prefix that other lanes, their forks, continue.

    Forks of one lane are adjacent: fork f of lane z is lane z * forks + f.
    """

    caches: tuple[LaneCache | CachesApart, ...]  # one per segment, of the same plan
    lengths_XB: Int[Array, "X B"]  # how many of the tokens each fork sees


class DecodedLanes(NamedTuple):
    """The tokens that lanes have decoded, from the deepest exit to the shallowest."""

    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]  # the end token counts
    sampler_state: Any
    caches: tuple[LaneCache | CachesApart, ...]  # empty unless they are kept


class LaneOrder:
    """The order of lanes, from deep to shallow, for exits in any order."""

    def __init__(self, exits: Ints):
        self._order = np.argsort(-np.asarray(exits), kind="stable")
        self.exits_E = np.asarray(exits, np.int32)[self._order]

    def to_lanes(self, array_EM: Shaped[Array, "E M ..."]) -> Shaped[Array, "X ..."]:
        """Reorder and flatten exits and samples to lanes."""
        array_EM = array_EM[self._order]
        return array_EM.reshape(-1, *array_EM.shape[2:])

    def to_exits(self, array_X: Shaped[Array, "X ..."]) -> Shaped[np.ndarray, "E M ..."]:
        """An array of lanes on the host, in the order that the exits were given."""
        shape = (len(self._order), -1, *array_X.shape[1:])
        return to_host(array_X).reshape(shape)[np.argsort(self._order)]


@functools.partial(jax.jit, static_argnames="depth")
def prefill(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exits_E: Int[Array, " E"],
    depth: int,
) -> tuple[PromptCache | CachesApart, Float[Array, "E B D"]]:
    """Run the prompts: the cache of the first `depth` layers, and the residual stream at the end.

    The latter is taken after each exit, at the last position of each prompt.
    """

    def read(output: LayerOutput):
        cache = LayerCache(output.k_BSKH.swapaxes(1, 2), output.v_BSKH.swapaxes(1, 2))
        return at_positions(output.h_BSD, lengths_B - 1), cache

    h_BSD = model.embed_tokens(tokens_BS)
    _, (last_LBD, cache) = scan_layers(model, h_BSD, read, depth=depth)
    axes = "BKSH" if model.is_apart else "LBKSH"
    cache = jax.tree.map(lambda part: constrain(part, axes, model.mesh), cache)
    cache = cache if model.is_apart else PromptCache(*cache)
    return cache, constrain(at_exits(last_LBD, exits_E), "EBD", model.mesh)


class LaneState(NamedTuple):
    """Lanes between two steps of the loop."""

    step: Int[Array, ""]
    done_XB: Bool[Array, "X B"]
    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]
    sampler_state: Any
    caches: tuple[LaneCache | CachesApart, ...]


@functools.partial(jax.jit, static_argnames=("plan", "samples", "max_new_tokens", "keep_caches"))
def decode(
    model: Mistral,
    cache: PromptCache | CachesApart,
    picked_XBD: Float[Array, "X B D"],
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    keys_XB: Key[Array, "X B"],
    sampler: Sampler,
    prefix: SharedPrefix | None = None,
    *,
    plan: Plan,
    samples: int,
    max_new_tokens: int,
    keep_caches: bool = False,
) -> DecodedLanes:
    """Decode new tokens of all lanes until every lane has ended.

    Args:
        model: the model.
        cache: keys and values of the prompts.
        picked_XBD: the residual stream after each lane's exit, at its last token so far.
        lengths_B: lengths of the prompts.
        exits_X: the exit of each lane, deep to shallow.
        keys_XB: a random key per lane.
        sampler: chooses each token.
        prefix: new tokens of other lanes that these lanes continue.
        plan: the segments of layers (the staircase).
        samples: lanes per prompt and exit.
        max_new_tokens: T, the maximum per lane.
        keep_caches: whether the lane caches are returned.
    """
    start = _start(model, picked_XBD, exits_X, keys_XB, sampler, plan, samples, max_new_tokens)
    inputs = model, cache, lengths_B, exits_X, keys_XB, sampler, prefix
    end = _run(start, *inputs, plan, samples, max_new_tokens)
    caches = end.caches if keep_caches else ()
    return DecodedLanes(end.tokens_XBT, end.lengths_XB, end.sampler_state, caches)


@functools.partial(jax.jit, static_argnames=("plan", "samples", "max_new_tokens"))
def start_lanes(
    model: Mistral,
    picked_XBD: Float[Array, "X B D"],
    exits_X: Int[Array, " X"],
    keys_XB: Key[Array, "X B"],
    sampler: Sampler,
    *,
    plan: Plan,
    samples: int,
    max_new_tokens: int,
) -> LaneState:
    """Decode the first token of all lanes, for `advance_lanes`; arguments as of `decode`."""
    return _start(model, picked_XBD, exits_X, keys_XB, sampler, plan, samples, max_new_tokens)


@functools.partial(jax.jit, static_argnames=("plan", "samples"), donate_argnames="state")
def advance_lanes(
    state: LaneState,
    model: Mistral,
    cache: PromptCache | CachesApart,
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    keys_XB: Key[Array, "X B"],
    sampler: Sampler,
    until: Int[Array, ""],
    *,
    plan: Plan,
    samples: int,
) -> LaneState:
    """Go on decoding until every lane has ended or has `until` tokens.

    What `decode` does in one call, in several: the tokens so far can be read between two. The state
    that is given is used up. Other arguments as of `decode`.
    """
    return _run(
        state, model, cache, lengths_B, exits_X, keys_XB, sampler, None, plan, samples, until
    )


def _start(
    model: Mistral,
    picked_XBD: Float[Array, "X B D"],
    exits_X: Int[Array, " X"],
    keys_XB: Key[Array, "X B"],
    sampler: Sampler,
    plan: Plan,
    samples: int,
    max_new_tokens: int,
) -> LaneState:
    """Choose the first token of all lanes."""
    X, B, _ = picked_XBD.shape
    c, T, dtype = model.config, max_new_tokens, picked_XBD.dtype

    def empty_cache(segment):
        layers, lanes = segment.last - segment.first, segment.exits * samples
        shape = (lanes, B, c.num_key_value_heads, T, c.head_dim)
        if not model.is_apart:
            zeros = constrain(jnp.zeros((layers, *shape), dtype), "LXBKTH", model.mesh)
            return LaneCache(zeros, zeros)
        zeros = constrain(jnp.zeros(shape, dtype), "XBKTH", model.mesh)
        return (LayerCache(zeros, zeros),) * layers

    tokens_XBT = constrain(jnp.zeros((X, B, T), jnp.int32), "XBT", model.mesh)
    first_XB, done_XB, sampler_state = _choose(
        model, sampler, sampler.start(X, B), picked_XBD, exits_X, tokens_XBT, jnp.int32(0), keys_XB
    )
    return LaneState(
        jnp.int32(0),
        done_XB,
        tokens_XBT.at[:, :, 0].set(first_XB),
        jnp.ones((X, B), jnp.int32),
        sampler_state,
        tuple(map(empty_cache, plan)),
    )


def _run(
    start: LaneState,
    model: Mistral,
    cache: PromptCache | CachesApart,
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    keys_XB: Key[Array, "X B"],
    sampler: Sampler,
    prefix: SharedPrefix | None,
    plan: Plan,
    samples: int,
    until: int | Int[Array, ""],
) -> LaneState:
    """Decode until every lane has ended or has `until` tokens, at most as many as there is room."""
    last_step = jnp.minimum(until, start.tokens_XBT.shape[-1]) - 1

    def is_going(state: LaneState):
        return (state.step < last_step) & ~state.done_XB.all()

    def advance(state: LaneState) -> LaneState:
        step, done_XB, tokens_XBT, lengths_XB, sampler_state, caches = state
        last_XB = jax.lax.dynamic_index_in_dim(tokens_XBT, step, axis=2, keepdims=False)
        picked_XBD, caches = forward(
            model,
            cache,
            caches,
            last_XB,
            step,
            lengths_B,
            exits_X,
            plan,
            samples,
            prefix,
            sampler.reads_prompt(sampler_state),
        )
        next_XB, ends_XB, next_state = _choose(
            model, sampler, sampler_state, picked_XBD, exits_X, tokens_XBT, step + 1, keys_XB
        )
        # What a lane that has ended would do next is no part of it.
        sampler_state = jax.tree.map(
            functools.partial(_unless_done, done_XB), sampler_state, next_state
        )
        next_XB = jnp.where(done_XB, 0, next_XB)
        tokens_XBT = jax.lax.dynamic_update_slice_in_dim(
            tokens_XBT, next_XB[..., None], step + 1, axis=2
        )
        lengths_XB = lengths_XB + ~done_XB
        done_XB = done_XB | ends_XB
        return LaneState(step + 1, done_XB, tokens_XBT, lengths_XB, sampler_state, caches)

    return jax.lax.while_loop(is_going, advance, start)


def _unless_done(
    done_XB: Bool[Array, "X B"], old: Shaped[Array, "X B ..."], new: Shaped[Array, "X B ..."]
) -> Shaped[Array, "X B ..."]:
    """The new state of lanes, and the old one of those that have ended."""
    return jnp.where(done_XB.reshape(*done_XB.shape, *[1] * (new.ndim - 2)), old, new)


def _choose(
    model: Mistral,
    sampler: Sampler,
    sampler_state: Any,
    picked_XBD: Float[Array, "X B D"],
    exits_X: Int[Array, " X"],
    tokens_XBT: Int[Array, "X B T"],
    step: Int[Array, ""],
    keys_XB: Key[Array, "X B"],
) -> tuple[Int[Array, "X B"], Bool[Array, "X B"], Any]:
    """Choose token `step` of every lane from the residual stream after its exit."""
    logits_XBV = constrain(model.unembed(picked_XBD, exits_X), "XBV", model.mesh)
    with jax.named_scope("choose"):
        return sampler.next(sampler_state, logits_XBV, tokens_XBT, step, keys_XB)


def forward(
    model: Mistral,
    cache: PromptCache | CachesApart,
    caches: tuple[LaneCache | CachesApart, ...],
    tokens_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    plan: Plan,
    samples: int,
    prefix: SharedPrefix | None = None,
    reads_XB: Bool[Array, "X B"] | None = None,
) -> tuple[Float[Array, "X B D"], tuple[LaneCache | CachesApart, ...]]:
    """Run one new token of every lane: the residual stream after its exit, and the lane caches.

    The token of a lane for which `reads_XB` is false does not attend to the prompt.
    """
    h_XBD = constrain(model.embed_tokens(tokens_XB), "XBD", model.mesh)
    positions_XB = (lengths_B + step)[None]  # one row for all lanes, unless they are forks
    if prefix is not None:
        positions_XB = positions_XB + prefix.lengths_XB
    picked_XBD = jnp.full(h_XBD.shape, jnp.nan, h_XBD.dtype)
    new_caches = []
    for n, (segment, lane_cache) in enumerate(zip(plan, caches, strict=True)):
        lanes = segment.exits * samples  # the deepest: a prefix of all
        (h_XBD, picked_segment_XBD), new = _run_segment(
            model,
            segment,
            (h_XBD[:lanes], picked_XBD[:lanes]),
            cache,
            lane_cache,
            step,
            lengths_B,
            positions_XB[:lanes],
            exits_X[:lanes],
            prefix and SharedPrefix((prefix.caches[n],), prefix.lengths_XB[:lanes]),
            None if reads_XB is None else reads_XB[:lanes],
        )
        picked_XBD = jax.lax.dynamic_update_slice_in_dim(picked_XBD, picked_segment_XBD, 0, axis=0)
        if isinstance(lane_cache, LaneCache):
            new = write_step(lane_cache, new, step)
        new_caches.append(new)
    return picked_XBD, tuple(new_caches)


def _run_segment(
    model: Mistral,
    segment: Segment,
    start: tuple[Float[Array, "X B D"], Float[Array, "X B D"]],
    cache: PromptCache | CachesApart,
    lane_cache: LaneCache | CachesApart,
    step: Int[Array, ""],
    lengths_B: Int[Array, " B"],
    positions_XB: Int[Array, "#X B"],
    exits_X: Int[Array, " X"],
    prefix: SharedPrefix | None,
    reads_XB: Bool[Array, "X B"] | None,
) -> tuple[
    tuple[Float[Array, "X B D"], Float[Array, "X B D"]],
    Any,
]:
    """Run the layers of a segment over its lanes.

    Args:
        start: the residual stream before them, and what earlier segments picked of it.

    Returns:
        The same after them, and what `attend_own` returns of each layer.
    """
    rotation = model.rope_at(positions_XB)

    def run_layer(carry, block, i):
        h_XBD, picked_XBD = carry
        of_segment, window = i - segment.first, block.window
        q_XBKGH, k_XBKH, v_XBKH = block.project_step(h_XBD, *rotation)
        with jax.named_scope("attend_prompt"):
            prompt = slice_cache(cache, i)
            parts = [attend_prompt(q_XBKGH, prompt, lengths_B, positions_XB, window, reads_XB)]
        with jax.named_scope("attend_lane"):
            own, new = attend_own(q_XBKGH, k_XBKH, v_XBKH, lane_cache, of_segment, step, window)
        if prefix is not None:
            with jax.named_scope("attend_prefix"):
                shared = slice_cache(prefix.caches[0], of_segment)
                parts.append(attend_prefix(q_XBKGH, shared, prefix.lengths_XB, step, window))
        h_XBD = constrain(block.finish_step(h_XBD, [*parts, *own]), "XBD", model.mesh)
        is_exit_X11 = (i + 1 == exits_X)[:, None, None]
        return (h_XBD, jnp.where(is_exit_X11, h_XBD, picked_XBD)), new

    return over_layers(model, run_layer, start, layers=range(segment.first, segment.last))
