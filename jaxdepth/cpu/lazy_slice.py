"""Matrices of one layer that stay in the stack of all layers until they are multiplied by.

A CPU copies a matrix out of its stack before it multiplies by it. If XLA did that as soon as the
layer's index is computed, copies of all matrices of a layer would be in memory at once, and would
leave the processor's cache before they are used.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

Tree = TypeVar("Tree")


class LazySlice(nnx.Module):
    """One matrix (or a module that stands for one, such as `Int8`) of one layer."""

    def __init__(self, stack: nnx.Param | nnx.Module, layer: int | Int[Array, ""]):
        self.stack = stack
        self.layer = nnx.Variable(layer)

    def slice_for(self, x: Float[Array, "*batch I"]) -> Any:
        """The matrix that `x` is multiplied by, which a CPU copies once `x` has been computed."""
        layer = jax.lax.platform_dependent(
            self.layer[...],
            x[(0,) * x.ndim],
            cpu=delay_until,
            default=lambda layer, _: layer,  # other platforms read it out of the stack
        )
        return slice_layer(self.stack, layer)


def slice_layer(stack: Tree, layer: int | Int[Array, ""]) -> Tree:
    """One layer of all arrays of a pytree, counted from 0."""
    pick = functools.partial(jax.lax.dynamic_index_in_dim, index=layer, keepdims=False)
    return jax.tree.map(pick, stack)


def delay_until(layer: Int[Array, ""], x: Float[Array, ""]) -> Int[Array, ""]:
    """`layer`, whatever `x` is, in a form that cannot be computed before `x` is.

    n (n + 1) is even, with overflow too, and XLA does not know that.
    """
    n = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return layer + (n * (n + 1) & 1)
