"""A matrix of every layer, each layer's in an array of its own.

A GPU copies what it slices out of a stack of all layers before it multiplies by it: in decoding,
which is bound by reading weights, it would move each three times. An array of its own is read where
it lies. The price: a loop over layers is written out, and its program grows with their number.

Matrices that the same is multiplied by are joined there, so that one product does for all.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxdepth.model import AnyArray
from jaxdepth.model.int8 import Int8
from jaxdepth.model.parameters import MATRICES, split_points
from jaxdepth.model.sharding import shares_columns

# Matrices that stand side by side in one, by its name.
JOINED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}


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


def place_apart(layers: nnx.Module, mesh: Mesh | None) -> None:
    """Take all stacked matrices of a `Block` apart, and join those of `JOINED`."""
    for name in MATRICES:  # one by one, so that the memory of its stack is freed
        setattr(layers, name, take_apart(getattr(layers, name)))
    join(layers, mesh)


def join(layers: nnx.Module, mesh: Mesh | None) -> None:
    """Put matrices of `JOINED` that are apart side by side, one layer after another.

    Where a mesh shares their columns they stay alone: a device has some of each.

    Args:
        layers: a `Block`, which is changed; its arrays may be shapes alone.
        mesh: the devices.
    """
    for name, parts in JOINED.items() if not shares_columns(mesh) else ():
        columns = [list(getattr(layers, part).matrices) for part in parts]
        for part in parts:
            setattr(layers, part, None)
        # Each layer's own are freed before the next layer is joined.
        depth = len(columns[0])
        joined = [_side_by_side([matrices.pop(0) for matrices in columns]) for _ in range(depth)]
        setattr(layers, name, Apart(joined))


def matrix_of_layer(layers: Any, name: str, layer: int) -> AnyArray:
    """One parameter of one layer of a `Block`, counted from 0, however layers are placed."""
    parameter = getattr(layers, name)
    if parameter is not None:
        is_apart = isinstance(parameter, Apart)
        return parameter.matrices[layer][...] if is_apart else parameter[...][layer]
    whole, parts = next((whole, parts) for whole, parts in JOINED.items() if name in parts)
    columns = getattr(layers, whole).matrices[layer][...]
    return jnp.split(columns, split_points(parts, layers.config), axis=-1)[parts.index(name)]


def _side_by_side(matrices: Sequence[nnx.Param | Int8]) -> Any:
    """Matrices with as many inputs as one, whose outputs are those of all."""
    arrays = [m if isinstance(m, Int8) else m.get_value() for m in matrices]
    first = arrays[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        shape = (*first.shape[:-1], sum(array.shape[-1] for array in arrays))
        return jax.ShapeDtypeStruct(shape, first.dtype, sharding=first.sharding)
    return _concatenate(*arrays)


@jax.jit
def _concatenate(*trees):
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=-1), *trees)
