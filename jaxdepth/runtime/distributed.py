"""Several processes that run one program, each with its own devices: jax.distributed.

All processes run the same code on the same input, and arrays on a mesh span all of them. One
process writes each file and all read it, so a run directory must be on a shared file system.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxdepth.errors import InputError

# The number of processes, as srun and Open MPI's mpirun set it in each of them.
_PROCESS_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_JOB_NAMES = {
    "SLURM_STEP_NUM_TASKS": ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    "OMPI_COMM_WORLD_SIZE": ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
}
_ADDRESS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_MAX_MESSAGE = 500  # bytes of an error that processes send each other


class SharedError(InputError):
    """An error that every process raises, so that only the first needs to print it."""


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes, if there are any. Call it before any device is used.

    Processes join if JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, under
    srun and mpirun, and on the hosts of a TPU slice, which discover each other.

    Raises:
        InputError: only some of the three are set, or the other processes cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    is_set = [name for name in _ADDRESS if name in environment]
    launched = any(int(environment.get(name) or 1) > 1 for name in _PROCESS_COUNTS)
    if is_set and len(is_set) < len(_ADDRESS):
        unset = next(name for name in _ADDRESS if name not in environment)
        raise InputError(f"{is_set[0]} is set, {unset} is not: set {', '.join(_ADDRESS)} together")
    try:
        if is_set:
            address, count, process_id = (environment[name] for name in _ADDRESS)
            jax.distributed.initialize(address, int(count), int(process_id))
        elif launched or _on_tpu(environment):
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        if is_set or launched:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"the other processes cannot be joined: {reason}") from None
        # Otherwise this is a TPU host without a slice: it runs alone.


def job_name(environment: Mapping[str, str] = os.environ) -> str:
    """What the processes of one job have in common, whether they have joined; empty for one alone.

    The hosts of a TPU slice are told by nothing but their common command.
    """
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return f"jax {environment['JAX_COORDINATOR_ADDRESS']}"
    for count, names in _JOB_NAMES.items():
        if int(environment.get(count) or 1) > 1:
            return " ".join(environment.get(name, "") for name in names)
    return f"tpu {shlex.join(sys.argv)}" if _on_tpu(environment) else ""


def _on_tpu(environment: Mapping[str, str]) -> bool:
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    return any(os.path.exists(device) for device in ("/dev/accel0", "/dev/vfio/0"))


def is_first() -> bool:
    """Whether this is the process that prints, and that writes results which all have computed."""
    return not is_distributed() or jax.process_index() == 0


def is_distributed() -> bool:
    """Whether there are several processes; uses no device if none were joined."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def barrier() -> None:
    """Wait until every process has called this."""
    if is_distributed():
        multihost_utils.sync_global_devices("jaxdepth")


def all_gather(array: ArrayLike) -> Shaped[np.ndarray, "processes ..."]:
    """Stack the arrays of all processes, of one shape and dtype, along a new leading axis."""
    if not is_distributed():
        return np.asarray(array)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(array)))


def first_has_file(path: Path) -> bool:
    """Whether the first process sees a file.

    All processes decide by it, because on a shared file system a new file appears to each of them
    at another time.
    """
    return bool(all_gather(path.is_file())[0])


def raise_on_all(error: Exception | None) -> None:
    """Raise an error that any process passes on every process; all must call it.

    Without this, the others would wait forever for the process that failed.

    Raises:
        SharedError: a process passed an error. A single process raises the error itself.
    """
    if not is_distributed():
        if error is not None:
            raise error
        return
    message = np.zeros(_MAX_MESSAGE, np.uint8)
    text = ("" if error is None else str(error) or type(error).__name__).encode()[:_MAX_MESSAGE]
    message[: len(text)] = np.frombuffer(text, np.uint8)
    for row in all_gather(message):
        if row.any():
            raise SharedError(bytes(row).rstrip(b"\0").decode(errors="replace"))


@contextmanager
def mute_other_processes() -> Iterator[None]:
    """Discard the standard output of every process but the first."""
    if not is_first():
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
            yield
    else:
        yield
