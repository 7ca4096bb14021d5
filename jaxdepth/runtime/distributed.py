"""Several processes that run one program, each with devices of its own: jax.distributed.

All of them run the same code on the same input; arrays of a mesh span them. Files are written by
one process and read by all, so a run directory must be where all of them see it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import jax
import numpy as np

from jaxdepth.errors import InputError

# What launchers tell every process: how many there are. srun, Open MPI's mpirun.
_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class AgreedError(InputError):
    """An error that all processes know of, so that one says it."""


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes where there are any; to be called before devices are touched.

    There are where addresses are given (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES,
    JAX_PROCESS_ID), under srun and mpirun, and on the hosts of a TPU slice, which find each other.

    Raises:
        InputError: only some of the three are given, or the other processes cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    given = [name for name in _GIVEN if name in environment]
    launched = any(int(environment.get(name) or 1) > 1 for name in _LAUNCHERS)
    if given and len(given) < len(_GIVEN):
        lacking = next(name for name in _GIVEN if name not in environment)
        raise InputError(f"{given[0]} is set, {lacking} is not: set {', '.join(_GIVEN)} together")
    try:
        if given:
            address, count, number = (environment[name] for name in _GIVEN)
            jax.distributed.initialize(address, int(count), int(number))
        elif launched or _on_tpu(environment):
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        if given or launched:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"the other processes cannot be joined: {reason}") from None
        # One TPU host by itself, which is told of no others.


def _on_tpu(environment: Mapping[str, str]) -> bool:
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    return any(os.path.exists(place) for place in ("/dev/accel0", "/dev/vfio/0"))


def is_first() -> bool:
    """Whether this process is the one that prints, and writes what all have made alike."""
    return not several() or jax.process_index() == 0


def several() -> bool:
    """Whether there are other processes; touches no device where none were joined."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def wait() -> None:
    """Goes on when all processes are here."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jaxdepth")


def gathered(array) -> np.ndarray:
    """What every process has, on a leading axis of processes."""
    if not several():
        return np.asarray(array)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(array)))


def first_sees(path: Path) -> bool:
    """Whether the first process sees a file: what all go by, as files appear at other times."""
    return bool(gathered(path.is_file())[0])


def agree(error: Exception | None) -> None:
    """Raises an error that one process has on all of them: none then waits for it for ever."""
    if not several():
        if error is not None:
            raise error
        return
    said = np.zeros(500, np.uint8)
    text = ("" if error is None else str(error) or type(error).__name__).encode()[: len(said)]
    said[: len(text)] = np.frombuffer(text, np.uint8)
    for row in gathered(said):
        if row.any():
            raise AgreedError(bytes(row).rstrip(b"\0").decode(errors="replace"))


@contextmanager
def silenced() -> Iterator[None]:
    """Standard output of the first process only."""
    if not is_first():
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    else:
        yield
