"""Folders that appear complete or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.runtime.preemption import Stopped


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
    partial = target.with_name(f".{target.name}.partial")
    keep = False
    try:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=resume)
        yield partial
        partial.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {target} ({reason}): free some space or permit it"
        ) from None
    except (KeyboardInterrupt, Stopped):
        keep = resume
        raise
    finally:
        if not keep:
            shutil.rmtree(partial, ignore_errors=True)
