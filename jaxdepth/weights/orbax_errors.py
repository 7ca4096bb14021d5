"""Turn Orbax's errors into one line, and silence its own output."""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdepth.errors import InputError

_END_OF_LOOP = "BaseEventLoop.__del__"


@contextmanager
def translate_orbax_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn what Orbax and TensorStore raise for damaged files into InputError.

    Args:
        path: the files that the block reads.
        remedy: what the user should do if they are damaged.

    Raises:
        InputError: they cannot be read.
    """
    try:
        with silence_orbax():
            yield
    except Exception as error:  # of many types
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} cannot be read ({reason}): {remedy}") from None


@contextmanager
def silence_orbax() -> Iterator[None]:
    """Disable Orbax's logging.

    It warns about plain files, which are used on purpose, and logs damage that it raises as well.
    After an error its threads go on logging what they abandon, so it stays disabled then.
    """
    _silence_abandoned_work()
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    previous = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    yield
    for logger, disabled in zip(loggers, previous, strict=True):
        logger.disabled = disabled


@functools.cache
def _silence_abandoned_work() -> None:
    """Keep the tracebacks of abandoned reads and writes off the terminal.

    When one array of a chunk cannot be read or written, Orbax closes its event loop while it is
    still at the others; each of them then ends in an error that nobody can catch. So does the end
    of a loop that could not begin, for want of file descriptors.
    """
    default_hook = sys.unraisablehook

    def hook(unraisable):
        name = getattr(unraisable.object, "__qualname__", "")
        if str(unraisable.exc_value) != "Event loop is closed" and name != _END_OF_LOOP:
            default_hook(unraisable)

    sys.unraisablehook = hook
