"""Standard output and error that no path, terminal or full disk can break."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Forgiving:
    """A stream whose messages may be lost: once it cannot be written, it discards all of them."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._discard()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Let what is buffered go nowhere, or the end of the process would fail over it."""
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Escape characters that a terminal has not, and go on when standard error cannot be written.

    Standard output that cannot be written stays an error: what it holds are results.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before = sys.stderr
    sys.stderr = _Forgiving(before)
    try:
        yield
    finally:
        if isinstance(sys.stderr, _Forgiving):
            sys.stderr.flush()
            sys.stderr = before


def run_in_utf8() -> None:
    """Start this program again where Python does not read paths as UTF-8, as in a POSIX locale.

    Libraries that are not written in Python cannot open a path that Python could not decode.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or "PYTHONUTF8" in os.environ:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
