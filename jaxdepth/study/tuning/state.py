"""The saved training state of a tuning run, verified by checksums of its arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxdepth.errors import InputError
from jaxdepth.model.sharding import to_host
from jaxdepth.tune.train import State
from jaxdepth.weights.train_state import load_state, save_state


def save_checked_state(folder: Path, step: int, state: State) -> None:
    """Save a training state with its checksums, then delete the one before it."""
    save_state(folder, step, (state, checksums(state)))


def load_checked_state(folder: Path, like: State) -> State | None:
    """The last state that was saved, or None if there is none.

    Raises:
        InputError: it does not have the checksums that were saved with it.
    """
    loaded = load_state(folder, (like, checksums(like)))
    if loaded is None:
        return None
    state, saved_sums = loaded
    if (to_host(checksums(state)) != to_host(saved_sums)).any():
        raise InputError(f"{folder} is damaged: tune anew, to another run directory")
    return state


@jax.jit
def checksums(state: State) -> Int[Array, " N"]:
    """A checksum of each array, computed on its devices, that changes with any of its elements.

    It is the sum of the elements' bits, each times an odd number, modulo 2^32.
    """

    def checksum(array):
        index = jnp.zeros(array.shape, jnp.uint32)
        for axis, size in enumerate(array.shape):
            along_axis = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
            index = index * jnp.uint32(size) + along_axis
        words = jax.lax.bitcast_convert_type(array, jnp.uint32)
        return (words * (2 * index + 1)).sum(dtype=jnp.uint32)

    return jnp.stack([checksum(array) for array in jax.tree.leaves(state)])
