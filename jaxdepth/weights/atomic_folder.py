"""Folders that appear complete or not at all.

While one is written its name is this process's own. All here is called under the lock of the
target, so what other processes have left beside it is theirs no more.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxdepth.errors import InputError, one_line
from jaxdepth.runtime.lock import process_name
from jaxdepth.runtime.preemption import Stopped

_TOO_MANY = os.strerror(errno.EMFILE)
_ATTEMPTS, _PAUSE_SECONDS = 20, 0.1  # of removing a folder that threads still write to


@contextmanager
def atomic_folder(target: Path, resume: bool = False) -> Iterator[Path]:
    """A folder to write to, which one rename turns into `target` when the block ends.

    Args:
        target: the folder to make.
        resume: keep the unfinished folder of a block that was interrupted, and start from what an
            interrupted block or a killed process has left.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    partial, keep = _own(target, "partial"), False
    try:
        with _one_line(target):
            left = _left_of(target, "partial")
            if left and resume:
                left.pop(0).rename(partial)
            for other in left:
                shutil.rmtree(other, ignore_errors=True)
            partial.mkdir(parents=True, exist_ok=resume)
            yield partial
            partial.rename(target)
    except (KeyboardInterrupt, Stopped):
        keep = resume
        raise
    finally:
        if not keep:
            _remove(partial)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, which is removed when the block ends.

    Raises:
        InputError: it cannot be written.
    """
    scratch = _own(target, "scratch")
    try:
        with _one_line(target):
            for other in _left_of(target, "scratch"):
                shutil.rmtree(other, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch
    finally:
        _remove(scratch)


def writing_error(error: Exception) -> OSError:
    """What another library raised while it wrote, which may be of any type, as an OSError."""
    return OSError(_TOO_MANY if _TOO_MANY in str(error) else one_line(error))


@contextmanager
def _one_line(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = str(error.strerror or error)
        remedy = "free some space or permit it"
        if reason == _TOO_MANY:
            remedy = "allow more of them (ulimit -n)"
        raise InputError(f"cannot write {target} ({reason}): {remedy}") from None


def _remove(folder: Path) -> None:
    """Remove a folder, also where hardly a file descriptor is left.

    Threads of Orbax soon return some. `shutil.rmtree` needs one for every level, this one in all.
    """
    for _ in range(_ATTEMPTS):
        for path, _, files in os.walk(folder, topdown=False):
            with suppress(OSError):
                for name in files:
                    Path(path, name).unlink(missing_ok=True)
                Path(path).rmdir()
        if not folder.exists():
            return
        time.sleep(_PAUSE_SECONDS)


def _own(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{process_name()}.{kind}")


def _left_of(target: Path, kind: str) -> list[Path]:
    """Unfinished folders of a target: this process's own, then the newest."""
    names = re.compile(re.escape(f".{target.name}.") + rf"([A-Za-z0-9-]+-\d+\.)?{kind}")
    beside = target.parent.iterdir() if target.parent.is_dir() else ()
    left = [path for path in beside if names.fullmatch(path.name) and path.is_dir()]
    own = _own(target, kind)
    return sorted(left, key=lambda path: (path == own, path.stat().st_mtime), reverse=True)
