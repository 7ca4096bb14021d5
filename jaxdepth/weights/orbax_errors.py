"""Orbax without what it prints: damage is told in one line."""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdepth.errors import InputError


@contextmanager
def reading(place: Path, mend: str) -> Iterator[None]:
    """What Orbax and TensorStore raise for damaged files, of many kinds, as one.

    Raises:
        InputError: the files at `place` cannot be read; `mend` says what to do.
    """
    _drop_late_reads()
    try:
        with quiet():
            yield
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{place} cannot be read ({reason}): {mend}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the terminal what Orbax logs: of plain files, which it takes for a mistake, and of
    damaged ones, which its errors tell as well.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was


@functools.cache
def _drop_late_reads() -> None:
    """Keeps the tracebacks of reads that nobody waits for any more off the terminal.

    When one array of a chunk cannot be read, Orbax closes its event loop while the others are on
    their way; each of them then ends in an error that nobody can catch.
    """
    following = sys.unraisablehook

    def hook(late):
        if str(late.exc_value) != "Event loop is closed":
            following(late)

    sys.unraisablehook = hook
