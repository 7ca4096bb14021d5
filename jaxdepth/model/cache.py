"""Keys and values that are kept: one prompt cache for all exits, short lane caches on top.

A prompt's keys and values at a layer are the same for every exit above it, so one prompt cache
serves all. After the first token the exits diverge: each lane (prompt x exit x sample) has its own
tokens and its own cache, which always starts at slot 0; a lane's token t stands at position
`length + t`, so one scalar is the write index of all lanes and nothing is padded on the left.

Axes besides those of the model: X streams of one prompt (exit x sample), T new positions. Batch
axes come first and positions last but one, so that no product needs a transposed copy of a cache.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.model.attention import Part, attend_part, join_parts

# A CPU cuts a layer out of its stack in pieces of so many bytes, but of so many slots at least.
PIECE_BYTES, PIECE_SLOTS = 1 << 20, 16


class PromptCache(NamedTuple):
    """Keys and values of the prompts, for the layers that run."""

    k_LBKSH: Float[Array, "L B K S H"]
    v_LBKSH: Float[Array, "L B K S H"]


class LaneCache(NamedTuple):
    """Keys and values of the lanes that run in one segment of layers."""

    k_LXBKTH: Float[Array, "L X B K T H"]
    v_LXBKTH: Float[Array, "L X B K T H"]


class Kept(NamedTuple):
    """Keys and values of one layer, where they lie: in the stack of all layers."""

    k: Float[Array, "L ... S H"]
    v: Float[Array, "L ... S H"]
    layer: Int[Array, ""]


def attend_prompt(
    q_XBKGH: Float[Array, "X B K G H"],
    kept_BKSH: Kept,
    lengths_B: Int[Array, " B"],
    positions_XB: Int[Array, "#X B"],
    window: int | Int[Array, ""] | None,
) -> Part:
    """The streams' queries, at some positions, over their prompt, which all streams share."""

    def attend(k_BKSH, v_BKSH, slots_S):
        seen_XBS = slots_S < lengths_B[None, :, None]
        if window is not None:
            seen_XBS &= slots_S > positions_XB[..., None] - window
        return _attend_shared(q_XBKGH, k_BKSH[None], v_BKSH[None], seen_XBS)

    return _in_place(attend, kept_BKSH)


def attend_parent(
    q_XBKGH: Float[Array, "X B K G H"],
    kept_PBKNH: Kept,
    cuts_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
) -> Part:
    """The children's queries over the first tokens of their parent, which its children share.

    A child's token `step` stands `cuts + step` tokens after the prompt, its parent's token n stands
    n after it.
    """
    cuts_XB1 = cuts_XB[..., None]

    def attend(k_PBKNH, v_PBKNH, slots_N):
        seen_XBN = slots_N < cuts_XB1
        if window is not None:
            seen_XBN &= slots_N > cuts_XB1 + step - window
        return _attend_shared(q_XBKGH, k_PBKNH, v_PBKNH, seen_XBN)

    return _in_place(attend, kept_PBKNH)


def _attend_shared(
    q_XBKGH: Float[Array, "X B K G H"],
    k_PBKSH: Float[Array, "P B K S H"],
    v_PBKSH: Float[Array, "P B K S H"],
    seen_XBS: Bool[Array, "#X B S"],
) -> Part:
    """Queries of X streams over P caches, X / P of them to each: those and the heads are rows."""
    X, B, K, G, _ = q_XBKGH.shape
    P, S = k_PBKSH.shape[0], k_PBKSH.shape[3]
    C = X // P

    def rows(x_XB):  # (X, B, K, G, ...) as (P, B, K, C * G, ...)
        apart = x_XB.reshape(P, C, *x_XB.shape[1:])
        return jnp.moveaxis(apart, 1, 3).reshape(P, B, -1, C * G, *x_XB.shape[4:])

    def back(x_PBKR):
        apart = x_PBKR.reshape(P, B, K, C, G, *x_PBKR.shape[4:])
        return jnp.moveaxis(apart, 3, 1).reshape(X, B, K, G, *x_PBKR.shape[4:])

    seen = seen_XBS[:, :, None, None, :]
    if len(seen_XBS) > 1:
        seen = rows(jnp.broadcast_to(seen, (X, B, 1, G, S)))
    return Part(*map(back, attend_part(rows(q_XBKGH), k_PBKSH, v_PBKSH, seen)))


def attend_lane(
    q_XBKGH: Float[Array, "X B K G H"],
    kept_XBKTH: Kept,
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
) -> Part:
    """The streams' queries over what each has said before: the slots below `step`."""

    def attend(k_XBKTH, v_XBKTH, slots_T):
        seen_T = slots_T < step
        if window is not None:
            seen_T &= slots_T > step - window
        return attend_part(q_XBKGH, k_XBKTH, v_XBKTH, seen_T)

    return _in_place(attend, kept_XBKTH)


def _in_place(attend: Callable[[Array, Array, Array], Part], kept: Kept) -> Part:
    """`attend` over a layer's keys, values and numbers of slots, without a copy of the layer.

    XLA reads them out of the stack where it fuses that with the product. On CPU it does not: there
    the slots go through `attend` piece by piece, each merged into what was found before.
    """
    slots = kept.k.shape[-2]
    per_slot = math.prod(kept.k.shape[1:-2]) * kept.k.shape[-1] * kept.k.dtype.itemsize
    size = max(PIECE_SLOTS, PIECE_BYTES // max(per_slot, 1))

    def cut(stack, first, size):
        starts = (kept.layer, *(0,) * (stack.ndim - 3), first, 0)
        return jax.lax.dynamic_slice(stack, starts, (1, *stack.shape[1:-2], size, stack.shape[-1]))

    def read(first, size, numbers):
        return attend(cut(kept.k, first, size)[0], cut(kept.v, first, size)[0], numbers)

    def whole():
        return read(0, slots, jnp.arange(slots))

    def add_piece(n, found):
        first = jnp.minimum(n * size, slots - size)  # the last may begin in the one before
        numbers = first + jnp.arange(size)
        # No rule lets a query see a slot so far away as those that were read before.
        numbers = jnp.where(numbers < n * size, jnp.iinfo(jnp.int32).max, numbers)
        return join_parts(found, read(first, size, numbers))

    def pieces():
        of = jax.eval_shape(whole)
        nothing = Part(*map(jnp.zeros_like, of))._replace(peak=jnp.full_like(of.peak, -jnp.inf))
        return jax.lax.fori_loop(0, -(-slots // size), add_piece, nothing)

    if size >= slots:
        return whole()
    return jax.lax.platform_dependent(cpu=pieces, default=whole)


def attend_self(
    q_XBKGH: Float[Array, "X B K G H"],
    k_XBKH: Float[Array, "X B K H"],
    v_XBKH: Float[Array, "X B K H"],
) -> Part:
    """The streams' queries over their own new token, which is in no cache yet."""
    return attend_part(q_XBKGH, k_XBKH[..., None, :], v_XBKH[..., None, :], jnp.array(True))


def write_step(
    cache: LaneCache,
    k_LXBKH: Float[Array, "L X B K H"],
    v_LXBKH: Float[Array, "L X B K H"],
    step: Int[Array, ""],
) -> LaneCache:
    """The cache with the new token of every layer and lane at slot `step`, written at once."""

    def write(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new[..., None, :], step, axis=4)

    return LaneCache(write(cache.k_LXBKTH, k_LXBKH), write(cache.v_LXBKTH, v_LXBKH))
