"""One process at a time on a run directory, or on a folder that is made: locks.

A lock is a file that its holder locks with flock, and removes when it is done. The kernel releases
the lock of a process that dies, however it dies; what is left of its file hinders nobody. Locks
reach across hosts as far as the file system carries flock: on NFS (version 4, or 3 with its lock
daemon), CephFS, and Lustre mounted with `flock`. Mounted buckets and Lustre with `localflock` lock
within one host only. Where there are no locks at all, one line says so, and the work goes on.

Of the processes of one job the first holds the lock for all.
"""

import errno
import fcntl
import functools
import json
import os
import platform
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from jaxdepth.errors import InputError
from jaxdepth.runtime import preemption
from jaxdepth.runtime.distributed import is_first, job_name, raise_on_all
from jaxdepth.runtime.log import keep_log, warn

LOCK_FILE = ".lock"  # in a run directory
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_POLL_SECONDS = 0.2
_MAX_RECORD, _MAX_COMMAND = 4096, 160  # characters

F = TypeVar("F", bound=Callable[..., Any])


class Occupied(InputError):
    """Another process is at work on a folder."""

    def __init__(self, target: Path, holder: dict[str, str]):
        self.job = holder.get("job", "")
        process = holder.get("process", "another process")
        since = f" since {holder['since']}" if "since" in holder else ""
        command = f" ({holder['command']})" if "command" in holder else ""
        super().__init__(
            f"{target} is in use by {process}{since}{command}: wait until that ends, or name "
            "another folder"
        )


@dataclass
class _Lock:
    """A lock that this thread holds, or that the first process of its job holds for it."""

    file: Path
    descriptor: int | None
    made: list[Path]  # folders that were made for the file
    depth: int = 1  # blocks within each other that hold it


_held: dict[tuple[str, int], _Lock] = {}  # by the file's real path, and the thread


@functools.cache
def process_name() -> str:
    """This process, in a name of a file: host and process id."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '', platform.node())[:20] or 'host'}-{os.getpid()}"


def one_at_a_time(folder_of: Callable[[Any], Path]) -> Callable[[F], F]:
    """Decorate a study, whose first argument has its settings: one at a time in its folder.

    Args:
        folder_of: the run directory from the settings.
    """

    def decorate(study: F) -> F:
        @functools.wraps(study)
        def locked(settings, *args, **kwargs):
            with hold_folder(folder_of(settings)):
                return study(settings, *args, **kwargs)

        return cast(F, locked)

    return decorate


@contextmanager
def hold_folder(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a run directory, which is made; all processes of a job must call it.

    It is removed again if nothing was written to it. Blocks of one thread may lie within each
    other. What happens in them is logged (`jaxdepth.runtime.log`).

    Raises:
        Occupied: another process holds it; at once, on all processes.
        InputError: it cannot be made.
    """
    folder = Path(folder)
    _check_name(folder)
    if folder.is_file():
        raise InputError(f"{folder} exists and is not a run directory: name another with --out")
    file = folder / LOCK_FILE
    key = os.path.realpath(file), threading.get_ident()
    if key in _held:
        _held[key].depth += 1
    else:
        _held[key] = _acquire_for_job(file, folder)
    try:
        with keep_log(folder):
            yield
    finally:
        lock = _held[key]
        lock.depth -= 1
        if not lock.depth:
            del _held[key]
            _release(lock)


@contextmanager
def hold_target(target: str | Path) -> Iterator[bool]:
    """Hold the lock of a folder that appears by a rename; its file lies beside it.

    It yields True in the process that makes the folder. The others of its job, which need not have
    joined it (`distributed.job_name`), wait until that one has ended, and get False.

    Raises:
        Occupied: a process that is not of this job holds it; at once.
        InputError: the lock cannot be made.
        Stopped: SIGTERM came while this waited.
    """
    target = Path(target)
    _check_name(target)
    lock = _acquire_or_wait(target.parent / f".{target.name}{LOCK_FILE}", target, job_name())
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _release(lock)


def _check_name(folder: Path) -> None:
    if "\0" in str(folder):
        raise InputError(f"{str(folder)!r} cannot be the name of a folder: name another")


def _acquire_for_job(file: Path, target: Path) -> _Lock:
    """Take the lock in the first process; an error of it is raised on all."""
    lock, error = _Lock(file, None, []), None
    if is_first():
        try:
            lock = _acquire(file, target, "")
        except (InputError, OSError) as raised:
            error = raised
    raise_on_all(error)
    return lock


def _acquire_or_wait(file: Path, target: Path, job: str) -> _Lock | None:
    """The lock; or None, once a process of this job that had it has ended."""
    try:
        return _acquire(file, target, job)
    except Occupied as occupied:
        if not job or occupied.job != job:
            raise
    while file.exists() and _is_locked(file):
        preemption.raise_if_stopped_here()
        time.sleep(_POLL_SECONDS)
    return None


def _is_locked(file: Path) -> bool:
    with suppress(OSError), file.open("rb+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _acquire(file: Path, target: Path, job: str) -> _Lock:
    made = _make_folder(file.parent, target)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise Occupied(target, holder) from None
            if error.errno not in _NO_LOCKS:
                raise
            warn(f"the file system of {target} has no locks: run one command at a time there")
            return _Lock(file, None, made)
        if _is_at(descriptor, file):
            break
        os.close(descriptor)  # its last holder has removed it
    record = {
        "process": f"process {os.getpid()} on {platform.node()}",
        "since": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": _command(),
        "job": job,
    }
    with suppress(OSError):  # a full disk: others then learn less of this process
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
    return _Lock(file, descriptor, made)


def _release(lock: _Lock) -> None:
    """Remove the file, then let go of it: who has opened it meanwhile sees that it is gone."""
    if lock.descriptor is not None:
        with suppress(OSError):
            lock.file.unlink()
        os.close(lock.descriptor)
    for folder in reversed(lock.made):
        with suppress(OSError):  # something was written to it
            folder.rmdir()


def _make_folder(folder: Path, target: Path) -> list[Path]:
    """Make a folder; which of it and its parents were made, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"cannot make {target}: it, or one of its parents, is a file") from None
    except ValueError as error:
        raise InputError(f"{str(target)!r} cannot be a folder ({error})") from None
    return missing[::-1]


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _read_holder(descriptor: int) -> dict[str, str]:
    """What the holder says of itself; empty if it has not yet, or something else is there."""
    try:
        holder = json.loads(os.pread(descriptor, _MAX_RECORD, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(holder, dict):
        return {}
    return {name: text for name, text in holder.items() if isinstance(text, str)}


def _command() -> str:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    text = shlex.join(words)
    return text if len(text) <= _MAX_COMMAND else text[: _MAX_COMMAND - 3] + "..."
