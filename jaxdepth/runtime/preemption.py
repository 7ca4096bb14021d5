"""Preemption: SIGTERM lets the chunk that is being made be finished, and then ends the command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdepth.runtime.distributed import gathered

_asked = False


class Stopped(Exception):
    """Work was stopped between two chunks; the same command goes on with it."""


@contextmanager
def listening() -> Iterator[None]:
    """In here SIGTERM asks for a stop; a second one ends the process at once."""
    global _asked
    _asked = False
    before = signal.signal(signal.SIGTERM, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def asked() -> bool:
    """Whether any process was asked to stop: all must call it, between two chunks."""
    return bool(gathered(_asked).any())


def check() -> None:
    """Raises Stopped if any process was asked to stop: all must call it, between two chunks."""
    if asked():
        raise Stopped


def _ask(number, frame) -> None:
    global _asked
    _asked = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
