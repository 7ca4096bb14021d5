"""A lens: what an exit's residual stream is translated by before it is unembedded.

Of exit e it is an affine map of the normed residual stream, of low rank but for the identity,

    z + z A_e B_e + c_e,    z = h / rms(h) * s_e

so that the head reads an exit in the words of full depth. The layers stay as they are. Full depth,
and any exit that was not trained, is read without it.

Source: the tuned lens (Belrose et al. 2023, arXiv:2303.08112), here with a low rank.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdepth.model.attention import HIGHEST


class Lens(nnx.Module):
    """The maps of all L exits, on a leading L axis."""

    def __init__(
        self, arrays: Mapping[str, Float[Array, "exits ..."]], exits: Sequence[int], L: int
    ):
        """Take the maps of some exits; the others are read without one.

        Args:
            arrays: `lens.norm` (exits, D), `lens.a` (exits, D, rank), `lens.b` (exits, rank, D) and
                `lens.bias` (exits, D).
            exits: the exits that they are of, 1..L.
            L: how many layers the model has.
        """
        rows = jnp.array(exits) - 1

        def of_all(name: str) -> nnx.Param:
            array = jnp.asarray(arrays[f"lens.{name}"], jnp.float32)
            return nnx.Param(jnp.zeros((L, *array.shape[1:])).at[rows].set(array))

        self.trained = nnx.Variable(jnp.zeros(L, bool).at[rows].set(True))
        self.norm, self.a = of_all("norm"), of_all("a")
        self.b, self.bias = of_all("b"), of_all("bias")

    def __call__(
        self, h: Float[Array, "*batch D"], exits: Int[Array, "*exits"], epsilon: float
    ) -> Float[Array, "*batch D"]:
        """Translate residual streams; the axes of `exits` are the first ones of `h`."""
        layer = jnp.asarray(exits) - 1
        norm, a, b, bias, trained = (
            x[...][layer] for x in (self.norm, self.a, self.b, self.bias, self.trained)
        )
        h_ND = h.reshape(*layer.shape, -1, h.shape[-1])
        h32 = h_ND.astype(jnp.float32)
        z = h32 * jax.lax.rsqrt(jnp.mean(h32 * h32, axis=-1, keepdims=True) + epsilon)
        z = z * norm[..., None, :]
        low = jnp.matmul(z, a, precision=HIGHEST)
        z = z + jnp.matmul(low, b, precision=HIGHEST) + bias[..., None, :]
        return jnp.where(trained[..., None, None], z.astype(h.dtype), h_ND).reshape(h.shape)
