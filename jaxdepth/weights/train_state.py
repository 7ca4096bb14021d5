"""Training states, kept with Orbax: whole or not at all, and only the last one."""

import shutil
from pathlib import Path

import jax

from jaxdepth.runtime.distributed import all_gather, barrier, is_first
from jaxdepth.weights.orbax_errors import reading


def save_state(folder: Path, step: int, state) -> None:
    """Keeps a training state, whole or not at all; the one before it then goes."""
    from orbax.checkpoint import v1 as ocp

    place = (folder / f"{step:08d}").absolute()
    ocp.save(place, _flat(state))
    for other in folder.iterdir() if is_first() else ():
        if other.name != place.name:
            shutil.rmtree(other)
    barrier()


def load_state(folder: Path, like):
    """The last training state that was kept, in the form of `like`; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    from orbax.checkpoint import v1 as ocp

    kept = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    last = int(all_gather(max(kept, default=-1))[0])
    if last < 0:
        return None
    place = folder / f"{last:08d}"
    wanted = _flat(like)
    with reading(place, "tune anew, to another run directory"):
        found = ocp.load(place.absolute(), wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [found[key] for key in wanted])


def _flat(tree) -> dict[str, jax.Array]:
    return {f"{n:05d}": leaf for n, leaf in enumerate(jax.tree.leaves(tree))}
