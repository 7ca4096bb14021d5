"""The log of a run: what was done when, which warnings there were, and how it ended.

It is the file `log.txt` of the run directory; each attempt adds to it. Its records are those of
Python's logger `jaxdepth`, to which a program may add handlers. Nothing is written before the
run has begun: a command that is refused leaves no folder behind.
"""

import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

from jaxdepth.errors import InputError, visible
from jaxdepth.runtime.distributed import is_first
from jaxdepth.runtime.preemption import Stopped

LOG_FILE = "log.txt"  # in a run directory
logger = logging.getLogger("jaxdepth")
logger.addHandler(logging.NullHandler())
logger.propagate = False  # libraries give the root logger handlers that print on standard error
_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")


class _RunLog(logging.Handler):
    """Keeps records until its file can be made, then writes them; a full disk only loses them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_FORMAT)
        self.waiting: list[str] = []
        self.file: IO[str] | None = None

    def begin(self, folder: Path) -> None:
        self.acquire()
        try:
            if self.file is None:
                self.file = (folder / LOG_FILE).open("a", encoding="utf-8")
                self.file.writelines(self.waiting)
                self.file.flush()
        except OSError:
            self.waiting.clear()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        if self.file is None:
            self.waiting.append(line)
            return
        with suppress(OSError, ValueError):
            self.file.write(line)
            self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        super().close()


_logs: dict[str, _RunLog] = {}  # by the real path of the run directory


@contextmanager
def keep_log(folder: Path) -> Iterator[None]:
    """Keep the log of a run directory while the block runs; in blocks within it, too.

    Of several processes the first keeps it.
    """
    key = os.path.realpath(folder)
    if key in _logs or not is_first():
        yield
        return
    log, level, start = _RunLog(), logger.level, time.monotonic()
    _logs[key] = log
    logger.addHandler(log)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    place = f"process {os.getpid()} on {platform.node()}"
    command = visible(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    logger.info("jaxdepth %s, %s: %s", version("jaxdepth"), place, command)
    try:
        yield
        logger.info("done in %.1f s", time.monotonic() - start)
    except BaseException as error:
        _log_end(error)
        raise
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
        log.close()
        del _logs[key]


def begin_log(folder: str | Path) -> None:
    """Write the log of a run directory from now on, with what was kept so far."""
    log = _logs.get(os.path.realpath(folder))
    if log is not None:
        log.begin(Path(folder))


def warn(message: str) -> None:
    """Print a warning as one line, in the first process, and log it."""
    line = visible(message)
    if is_first():
        print(f"jaxdepth: warning: {line}", file=sys.stderr)
    logger.warning("%s", line)


def _log_end(error: BaseException) -> None:
    if isinstance(error, InputError | OSError):
        logger.error("%s", visible(str(error)))
    elif isinstance(error, Stopped):
        logger.info("stopped by SIGTERM")
    elif isinstance(error, KeyboardInterrupt):
        logger.info("interrupted")
    else:
        logger.error("it failed", exc_info=error)
