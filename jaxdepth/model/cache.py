"""Key/value caches: one of the prompts for all exits, and a short one for each lane.

A prompt's keys and values at a layer are the same for every exit above it, so one prompt cache
serves all. After the first token the exits diverge: each lane (prompt x exit x sample) has its own
tokens and its own cache, which starts at slot 0. A lane's new token t stands at position
`length + t`, so one scalar is the slot that all lanes write, and nothing is padded on the left.

Batch axes come first and positions last but one, so that no matmul needs a transposed copy of a
cache. Axes: see `jaxdepth.model`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.cpu.cache_pieces import fold_slots
from jaxdepth.model import AnyArray
from jaxdepth.model.attention import Part, attend_part, empty_part, join_parts


class PromptCache(NamedTuple):
    """Keys and values of the prompts, for the layers that run."""

    k_LBKSH: Float[Array, "L B K S H"]
    v_LBKSH: Float[Array, "L B K S H"]


class LaneCache(NamedTuple):
    """Keys and values of the lanes that run in one segment of layers."""

    k_LXBKTH: Float[Array, "L X B K T H"]
    v_LXBKTH: Float[Array, "L X B K T H"]


class LayerCache(NamedTuple):
    """Keys and values of one layer, in arrays of their own."""

    k: Float[Array, "*batch S H"]
    v: Float[Array, "*batch S H"]


# The number of a layer, counted from the first of a cache; known where layers are apart.
Index = int | np.integer | Int[AnyArray, ""]

# Where a model's layers are apart its caches are too: a GPU would copy what it slices of a stack.
CachesApart = tuple[LayerCache, ...]


class CacheSlice(NamedTuple):
    """Keys and values of one layer, not yet sliced out of the stack of all layers."""

    k: Float[Array, "L *batch S H"]
    v: Float[Array, "L *batch S H"]
    layer: Int[Array, ""]


def slice_cache(cache: PromptCache | LaneCache | CachesApart, layer: Index) -> CacheSlice:
    """One layer of a cache."""
    if isinstance(cache, PromptCache | LaneCache):
        return CacheSlice(cache[0], cache[1], jnp.asarray(layer))
    k, v = cache[int(layer)]
    return CacheSlice(k[None], v[None], jnp.int32(0))


def attend_prompt(
    q_XBKGH: Float[Array, "X B K G H"],
    prompt: CacheSlice,
    lengths_B: Int[Array, " B"],
    positions_XB: Int[Array, "#X B"],
    window: int | Int[Array, ""] | None,
    reads_XB: Bool[Array, "X B"] | None = None,
) -> Part:
    """Attention of the lanes' queries, at some positions, over the prompt that lanes share.

    Lanes for which `reads_XB` is false attend to none of it; by default all do.
    """

    def attend(k_BKSH, v_BKSH, slots_S):
        seen_XBS = slots_S < lengths_B[None, :, None]
        if window is not None:
            seen_XBS &= slots_S > positions_XB[..., None] - window
        if reads_XB is not None:
            seen_XBS &= reads_XB[..., None]
        return _attend_shared(q_XBKGH, k_BKSH[None], v_BKSH[None], seen_XBS)

    return _attend_cached(attend, prompt)


def attend_prefix(
    q_XBKGH: Float[Array, "X B K G H"],
    prefix: CacheSlice,
    prefix_lengths_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
) -> Part:
    """Attention of forked lanes over the first tokens of the lane that they fork.

    New token `step` of a fork stands `prefix_lengths + step` tokens after the prompt; token t of
    the prefix stands t after it.

    Args:
        prefix: of shape (L, Z, B, K, T, H); forks of one lane are adjacent in X.
    """
    lengths_XB1 = prefix_lengths_XB[..., None]

    def attend(k_ZBKTH, v_ZBKTH, slots_T):
        seen_XBT = slots_T < lengths_XB1
        if window is not None:
            seen_XBT &= slots_T > lengths_XB1 + step - window
        return _attend_shared(q_XBKGH, k_ZBKTH, v_ZBKTH, seen_XBT)

    return _attend_cached(attend, prefix)


def attend_lane(
    q_XBKGH: Float[Array, "X B K G H"],
    lane: CacheSlice,
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
    holds_own: bool = False,
) -> Part:
    """Attention of the queries of new token `step` over each lane's own new tokens before it.

    If the cache holds the token itself, over that too.
    """

    def attend(k_XBKTH, v_XBKTH, slots_T):
        seen_T = slots_T <= step if holds_own else slots_T < step
        if window is not None:
            seen_T &= slots_T > step - window
        return attend_part(q_XBKGH, k_XBKTH, v_XBKTH, seen_T)

    return _attend_cached(attend, lane)


def attend_self(
    q_XBKGH: Float[Array, "X B K G H"],
    k_XBKH: Float[Array, "X B K H"],
    v_XBKH: Float[Array, "X B K H"],
) -> Part:
    """Attention of the lanes' queries over their own token, which is in no cache yet."""
    return attend_part(q_XBKGH, k_XBKH[..., None, :], v_XBKH[..., None, :], jnp.array(True))


def attend_own(
    q_XBKGH: Float[Array, "X B K G H"],
    k_XBKH: Float[Array, "X B K H"],
    v_XBKH: Float[Array, "X B K H"],
    cache: LaneCache | CachesApart,
    layer: Index,
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
) -> tuple[list[Part], LayerCache]:
    """Attention of the lanes' queries over each lane's own tokens, the one at `step` included.

    Returns:
        The parts, and what the step adds to this layer's cache. Of a stack that is the new token's
        key and value, which `write_step` writes for all layers at once; of layers apart the cache
        with the new token, over which one part attends.
    """
    if isinstance(cache, LaneCache):
        lane = attend_lane(q_XBKGH, slice_cache(cache, layer), step, window)
        return [lane, attend_self(q_XBKGH, k_XBKH, v_XBKH)], LayerCache(k_XBKH, v_XBKH)
    old = cache[int(layer)]
    written = LayerCache(_write(old.k, k_XBKH, step), _write(old.v, v_XBKH, step))
    lane = attend_lane(q_XBKGH, slice_cache((written,), 0), step, window, holds_own=True)
    return [lane], written


def write_step(cache: LaneCache, new: LayerCache, step: Int[Array, ""]) -> LaneCache:
    """A cache of stacked layers with the new token of every layer and lane at slot `step`."""
    return LaneCache(_write(cache.k_LXBKTH, new.k, step), _write(cache.v_LXBKTH, new.v, step))


def _write(
    old: Float[Array, "*lanes T H"], new: Float[Array, "*lanes H"], step: Int[Array, ""]
) -> Float[Array, "*lanes T H"]:
    return jax.lax.dynamic_update_slice_in_dim(old, new[..., None, :], step, axis=-2)


def _attend_shared(
    q_XBKGH: Float[Array, "X B K G H"],
    k_ZBKSH: Float[Array, "Z B K S H"],
    v_ZBKSH: Float[Array, "Z B K S H"],
    seen_XBS: Bool[Array, "#X B S"],
) -> Part:
    """Attention of X lanes over Z caches, X / Z lanes to each: lanes and heads become rows."""
    X, B, K, G, _ = q_XBKGH.shape
    Z, S = k_ZBKSH.shape[0], k_ZBKSH.shape[3]
    sharing = X // Z

    def to_rows(x_XB):  # (X, B, K, G, ...) as (Z, B, K, sharing * G, ...)
        apart = x_XB.reshape(Z, sharing, *x_XB.shape[1:])
        return jnp.moveaxis(apart, 1, 3).reshape(Z, B, -1, sharing * G, *x_XB.shape[4:])

    def to_lanes(x_ZBK):
        apart = x_ZBK.reshape(Z, B, K, sharing, G, *x_ZBK.shape[4:])
        return jnp.moveaxis(apart, 3, 1).reshape(X, B, K, G, *x_ZBK.shape[4:])

    seen = seen_XBS[:, :, None, None, :]
    if len(seen_XBS) > 1:
        seen = to_rows(jnp.broadcast_to(seen, (X, B, 1, G, S)))
    return Part(*map(to_lanes, attend_part(to_rows(q_XBKGH), k_ZBKSH, v_ZBKSH, seen)))


def _attend_cached(attend: Callable[[Array, Array, Array], Part], cached: CacheSlice) -> Part:
    """`attend` over a layer's keys, values and slot numbers, without a copy of the layer."""
    return fold_slots(attend, join_parts, empty_part, *cached)
