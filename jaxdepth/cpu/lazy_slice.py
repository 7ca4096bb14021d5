"""Matrices of one layer that are left in the stack of all layers until they are multiplied by.

A CPU copies a matrix out of its stack before it multiplies by it. Copied as soon as the layer's
number is known, all matrices of a layer are held at once, and leave its cache before they are used.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


class Stacked(nnx.Module):
    """One matrix, or whatever stands for one, of layer `number`."""

    def __init__(self, stack: nnx.Param | nnx.Module, number: Int[Array, ""]):
        self.stack = stack
        self.number = nnx.Variable(number)

    def cut_for(self, x: Float[Array, "... I"]) -> nnx.Param | nnx.Module:
        """The matrix that `x` is multiplied by, which a CPU copies once `x` is there."""
        number = jax.lax.platform_dependent(
            self.number[...],
            x[(0,) * x.ndim],
            cpu=known_after,
            default=lambda number, _: number,  # others read it where it lies
        )
        return cut(self.stack, number)


def cut(stack, number: Int[Array, ""]):
    """One layer of all arrays of a pytree."""
    pick = functools.partial(jax.lax.dynamic_index_in_dim, index=number, keepdims=False)
    return jax.tree.map(pick, stack)


def known_after(number: Int[Array, ""], x: Float[Array, ""]) -> Int[Array, ""]:
    """`number`, whatever `x` is, in a form that cannot be computed before `x` is.

    n (n + 1) is even, with overflow too, and XLA does not know that.
    """
    n = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return number + (n * (n + 1) & 1)
