"""Preemption: after SIGTERM the command finishes the current chunk and then stops."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdepth.runtime.distributed import all_gather

_stop_requested = False  # in this process


class Stopped(Exception):
    """Work was stopped between two chunks; the same command resumes it."""


@contextmanager
def handle_sigterm() -> Iterator[None]:
    """Let the first SIGTERM request a stop; a second one ends the process at once."""
    global _stop_requested
    _stop_requested = False
    previous = signal.signal(signal.SIGTERM, _request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def stop_requested() -> bool:
    """Whether any process has received SIGTERM. All must call it, between the same two chunks."""
    return bool(all_gather(_stop_requested).any())


def raise_if_stop_requested() -> None:
    """Raise Stopped if any process has received SIGTERM; all must call it, as `stop_requested`."""
    if stop_requested():
        raise Stopped


def raise_if_stopped_here() -> None:
    """Raise Stopped if this process has received SIGTERM, whatever the others of its job have."""
    if _stop_requested:
        raise Stopped


def _request_stop(number, frame) -> None:
    global _stop_requested
    _stop_requested = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
