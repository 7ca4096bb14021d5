"""Training states on disk, written with Orbax: atomically, and only the latest is kept."""

import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxdepth.runtime.distributed import all_gather, barrier, is_first
from jaxdepth.weights.orbax_errors import translate_orbax_errors

State = TypeVar("State")


def save_state(folder: Path, step: int, state: Any) -> None:
    """Write a training state atomically, then delete the one before it.

    Args:
        folder: of the states; it exists.
        step: how many steps the state has trained.
        state: a pytree of arrays.
    """
    from orbax.checkpoint import v1 as ocp  # heavy

    path = (folder / f"{step:08d}").absolute()
    ocp.save(path, _numbered_arrays(state))
    for other in folder.iterdir() if is_first() else ():
        if other.name != path.name:
            shutil.rmtree(other)
    barrier()


def load_state(folder: Path, like: State) -> State | None:
    """The latest training state, with the structure, dtypes and shardings of `like`, or None.

    Raises:
        InputError: it is damaged.
    """
    from orbax.checkpoint import v1 as ocp  # heavy

    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    latest = int(all_gather(max(steps, default=-1))[0])
    if latest < 0:
        return None
    path = folder / f"{latest:08d}"
    abstract = _numbered_arrays(like)
    with translate_orbax_errors(path, "tune anew, to another run directory"):
        arrays = ocp.load(path.absolute(), abstract)
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[key] for key in abstract])


def _numbered_arrays(tree) -> dict[str, jax.Array]:
    return {f"{number:05d}": array for number, array in enumerate(jax.tree.leaves(tree))}
