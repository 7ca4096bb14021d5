"""Weight-only int8 quantisation: matrices as 8-bit integers with a scale for each output.

A column w of outputs becomes round(w / s) with s = max |w| / 127: a quarter of float32's memory.
Activations stay in their dtype, so nothing is calibrated. Source: the weight-only form of Dettmers
et al. 2022 (arXiv:2208.07339).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Shaped


class Int8(nnx.Module):
    """A quantised matrix, or a stack of them."""

    def __init__(self, values: Shaped[Array, "*L I O"], scale: Float[Array, "*L O"]):
        self.values = nnx.Param(values)
        self.scale = nnx.Param(scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def matmul(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        """x W: summed and scaled in float32, returned in the dtype of `x`."""
        product = jnp.matmul(
            x,
            self.values[...].astype(x.dtype),  # exact: bfloat16 holds all whole numbers to 256
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return (product * self.scale[...]).astype(x.dtype)


def to_int8(matrix: Float[Array, "*L I O"]) -> Int8:
    """The matrix as integers from -127 to 127, off by at most half a scale."""
    matrix = matrix.astype(jnp.float32)
    largest = jnp.max(jnp.abs(matrix), axis=-2)
    scale = jnp.where(largest > 0, largest / 127, 1)
    return Int8(jnp.round(matrix / scale[..., None, :]).astype(jnp.int8), scale)
