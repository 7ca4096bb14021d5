"""The saved state of a tuning run, checked by sums of its arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxdepth.errors import InputError
from jaxdepth.model.sharding import to_host
from jaxdepth.tune.train import State
from jaxdepth.weights.train_state import load_state


def _kept(folder: Path, like: State) -> State | None:
    """The last state that was saved, held against its sums; None if there is none."""
    found = load_state(folder, (like, _sums(like)))
    if found is None:
        return None
    state, sums = found
    if (to_host(_sums(state)) != to_host(sums)).any():
        raise InputError(f"{folder} is damaged: tune anew, to another run directory")
    return state


@jax.jit
def _sums(state: State) -> Int[Array, " N"]:
    """A number of each array, computed where it lies, that changes with any of its elements.

    It is the sum of the elements' bits, each times an odd number, modulo 2^32.
    """

    def of(array):
        place = jnp.zeros(array.shape, jnp.uint32)
        for axis, size in enumerate(array.shape):
            along = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
            place = place * jnp.uint32(size) + along
        words = jax.lax.bitcast_convert_type(array, jnp.uint32)
        return (words * (2 * place + 1)).sum(dtype=jnp.uint32)

    return jnp.stack([of(array) for array in jax.tree.leaves(state)])
