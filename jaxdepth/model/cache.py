"""Keys and values that are kept: one prompt cache for all exits, short lane caches on top.

A prompt's keys and values at a layer are the same for every exit above it, so one prompt cache
serves all. After the first token the exits diverge: each lane (prompt x exit x sample) has its own
tokens and its own cache, which always starts at slot 0; a lane's token t stands at position
`length + t`, so one scalar is the write index of all lanes and nothing is padded on the left.

Axes besides those of the model: X streams of one prompt (exit x sample), T new positions. Batch
axes come first and positions last but one, so that no product needs a transposed copy of a cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.model.attention import Part, attend_part


class PromptCache(NamedTuple):
    """Keys and values of the prompts, for the layers that run."""

    k_LBKSH: Float[Array, "L B K S H"]
    v_LBKSH: Float[Array, "L B K S H"]


class LaneCache(NamedTuple):
    """Keys and values of the lanes that run in one segment of layers."""

    k_LXBKTH: Float[Array, "L X B K T H"]
    v_LXBKTH: Float[Array, "L X B K T H"]


def attend_prompt(
    q_XBKGH: Float[Array, "X B K G H"],
    k_BKSH: Float[Array, "B K S H"],
    v_BKSH: Float[Array, "B K S H"],
    lengths_B: Int[Array, " B"],
    positions_XB: Int[Array, "#X B"],
    window: int | Int[Array, ""] | None,
) -> Part:
    """The streams' queries, at some positions, over their prompt, which all streams share."""
    keys = jnp.arange(k_BKSH.shape[2])
    seen_XBS = keys < lengths_B[None, :, None]
    if window is not None:
        seen_XBS = seen_XBS & (keys > positions_XB[..., None] - window)
    return _attend_shared(q_XBKGH, k_BKSH[None], v_BKSH[None], seen_XBS)


def attend_parent(
    q_XBKGH: Float[Array, "X B K G H"],
    k_PBKNH: Float[Array, "P B K N H"],
    v_PBKNH: Float[Array, "P B K N H"],
    cuts_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
) -> Part:
    """The children's queries over the first tokens of their parent, which its children share.

    A child's token `step` stands `cuts + step` tokens after the prompt, its parent's token n stands
    n after it.
    """
    slots, cuts_XB1 = jnp.arange(k_PBKNH.shape[3]), cuts_XB[..., None]
    seen_XBN = slots < cuts_XB1
    if window is not None:
        seen_XBN &= slots > cuts_XB1 + step - window
    return _attend_shared(q_XBKGH, k_PBKNH, v_PBKNH, seen_XBN)


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
    k_XBKTH: Float[Array, "X B K T H"],
    v_XBKTH: Float[Array, "X B K T H"],
    step: Int[Array, ""],
    window: int | Int[Array, ""] | None,
) -> Part:
    """The streams' queries over what each has said before: the slots below `step`."""
    slots = jnp.arange(k_XBKTH.shape[3])
    seen_T = slots < step
    if window is not None:
        seen_T &= slots > step - window
    return attend_part(q_XBKGH, k_XBKTH, v_XBKTH, seen_T)


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
