"""Preemption: after SIGTERM the command finishes the current chunk and then stops."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdepth.runtime.distributed import all_gather

_stop_requested = False  # in this process


class Stopped(Exception):
    """Work was stopped between two chunks; the same command resumes it."""


@contextmanager
def handle_sigterm() -> Iterator[None]:
    """Let the first SIGTERM request a stop; a second one ends the process at once.

    Python runs a handler between two of its own instructions, and a compilation can be one of them
    for minutes. Meanwhile a thread counts the signals.
    """
    global _stop_requested
    _stop_requested = False
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    previous = signal.signal(signal.SIGTERM, _request_stop)
    previous_fd = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_end_at_second, args=(received,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        signal.signal(signal.SIGTERM, previous)
        os.close(sent)
        watcher.join()
        os.close(received)


def _end_at_second(received: int) -> None:
    """End the process when its main thread has left two SIGTERM unhandled."""
    count = 0
    while numbers := os.read(received, 64):
        count += numbers.count(signal.SIGTERM)
        if count > 1:
            os._exit(128 + signal.SIGTERM)


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
