"""Folders that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdepth.errors import InputError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `target` by one rename when the block ends.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {target} ({reason}): free some space or permit it"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
