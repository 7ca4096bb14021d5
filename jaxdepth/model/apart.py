"""A matrix of every layer, each layer's in an array of its own.

A GPU copies what it slices out of a stack of all layers before it multiplies by it: in decoding,
which is bound by reading weights, it would move each three times. An array of its own is read where
it lies. The price: a loop over layers is written out, and its program grows with their number.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdepth.model import AnyArray
from jaxdepth.model.int8 import Int8


class Apart(nnx.Module):
    """One matrix of L layers, in L arrays."""

    def __init__(self, matrices: Sequence[AnyArray | jax.ShapeDtypeStruct | Int8]):
        as_modules = (m if isinstance(m, Int8) else nnx.Param(m) for m in matrices)
        self.matrices: Any = nnx.List(as_modules)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.matrices), *self.matrices[0].shape

    def __getitem__(self, index: EllipsisType) -> Float[Array, "L I O"]:
        """A copy of all of them in one stack, as the value of a stacked parameter is read."""
        return jnp.stack([matrix[...] for matrix in self.matrices])


def take_apart(stack: nnx.Param | Int8) -> Apart:
    """The layers of a stacked matrix in arrays of their own, on the devices of the stack."""

    def unstack(stack):
        return [jax.tree.map(lambda array, i=i: array[i], stack) for i in range(stack.shape[0])]

    return Apart(jax.jit(unstack)(stack if isinstance(stack, Int8) else stack[...]))
