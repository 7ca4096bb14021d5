"""Read one layer of a stacked cache without a copy of it: on a CPU, a few slots at a time.

Other platforms read the layer out of the stack where they fuse that with the matmul. A CPU copies
it first; in pieces that stay in the processor's cache, the copy costs little.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# A piece has so many bytes, but so many slots at least.
PIECE_BYTES, PIECE_SLOTS = 1 << 20, 16

Tree = TypeVar("Tree")


def fold_slots(
    read: Callable[[Array, Array, Array], Tree],
    join: Callable[[Tree, Tree], Tree],
    empty_like: Callable[[Tree], Tree],
    k: Float[Array, "L *batch S H"],
    v: Float[Array, "L *batch S H"],
    layer: Int[Array, ""],
) -> Tree:
    """Apply `read` to the keys, values and slot numbers of a layer: whole, or joined over pieces.

    Args:
        read: of keys (*batch, n, H), values (*batch, n, H) and slot numbers (n,).
        join: what `read` gives for the slots of both its arguments.
        empty_like: what `read` gives for no slot, in the shape of its argument.
        k: keys, stacked over layers.
        v: values.
        layer: which layer, counted from 0.
    """
    slots = k.shape[-2]
    bytes_per_slot = math.prod(k.shape[1:-2]) * k.shape[-1] * k.dtype.itemsize
    size = max(PIECE_SLOTS, PIECE_BYTES // max(bytes_per_slot, 1))

    def slice_slots(stack, first, size):
        starts = (layer, *(0,) * (stack.ndim - 3), first, 0)
        return jax.lax.dynamic_slice(stack, starts, (1, *stack.shape[1:-2], size, stack.shape[-1]))

    def read_slots(first, size, numbers):
        return read(slice_slots(k, first, size)[0], slice_slots(v, first, size)[0], numbers)

    def whole():
        return read_slots(0, slots, jnp.arange(slots))

    def add_piece(n, joined):
        first = jnp.minimum(n * size, slots - size)  # the last may begin in the one before
        numbers = first + jnp.arange(size)
        # Slots that were read before get a number that no mask admits.
        numbers = jnp.where(numbers < n * size, jnp.iinfo(jnp.int32).max, numbers)
        return join(joined, read_slots(first, size, numbers))

    def pieces():
        return jax.lax.fori_loop(0, -(-slots // size), add_piece, empty_like(jax.eval_shape(whole)))

    if size >= slots:
        return whole()
    return jax.lax.platform_dependent(cpu=pieces, default=whole)
