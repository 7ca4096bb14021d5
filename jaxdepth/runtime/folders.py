"""Folders of other libraries that cannot be written: one line says so, and the work goes on."""

import functools
import os
import tempfile
from pathlib import Path

from jaxdepth.errors import one_line
from jaxdepth.runtime.log import warn


def can_write(folder: Path, what: str) -> bool:
    """Whether files can be made in a folder; a line says so if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, ValueError) as error:
        warn(f"{folder} cannot be written ({one_line(error)}): {what} will not be kept")
        return False


@functools.cache
def use_matplotlib_folder() -> None:
    """Give matplotlib a temporary folder where the one that MPLCONFIGDIR names cannot be written.

    It goes on by itself too, but with several lines. To be called before it is imported.
    """
    chosen = os.environ.get("MPLCONFIGDIR")
    if chosen and not can_write(Path(chosen), "matplotlib's list of fonts"):
        os.environ["MPLCONFIGDIR"] = _temporary().name


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
    """A folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="jaxdepth-matplotlib-")
