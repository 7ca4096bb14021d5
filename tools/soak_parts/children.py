"""Commands of `jaxdepth` in processes of their own, forked from one that has imported everything.

Imports take more time than the work on a tiny model. The process that forks has no JAX backend and
no threads of Python; what it needs of JAX it runs in a child, too.
"""

import atexit
import importlib
import io
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.02
CHUNK_BYTES = 20_000  # of a conversion: a few tensors, so that a kill falls between two chunks


class Child:
    """A process that was forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None  # as of subprocess: -9 after SIGKILL

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def cpu_seconds(self) -> float:
        """The processor time that it has used, which a busy machine does not change."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = 1e9) -> None:
        """Wait until it has ended, or something is so, or it has used so much processor time."""
        while self.is_alive() and self.cpu_seconds() < seconds and not until():
            time.sleep(_POLL_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)


def import_all() -> None:
    """Import what any command needs, so that no child has to."""
    from jaxdepth.commands.parsing import _IN_FOLDERS, COMMANDS

    for name in COMMANDS.keys() - {"serve", "evaluate", "export-logs"}:
        module = _IN_FOLDERS.get(name, name.replace("-", "_"))
        importlib.import_module(f"jaxdepth.commands.{module}")
    importlib.import_module("transformers")


def start(words: Sequence[str], folder: Path, log: Path) -> Child:
    """Start a command in a folder; what it prints goes to a file.

    Args:
        words: of the command line.
        folder: the working directory, two levels below the place of the soak.
        log: the file.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid)
    status = 1
    try:
        _become(folder, log)
        status = _run(words, folder.parents[1] / "programs")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _become(folder: Path, log: Path) -> None:
    """Take the streams and the folder of a command that a shell has started."""
    os.chdir(folder)
    nowhere, output = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    )
    for descriptor, source in ((0, nowhere), (1, output), (2, output)):
        os.dup2(source, descriptor)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", line_buffering=True)  # noqa: SIM115


def _run(words: Sequence[str], programs: Path) -> int:
    """Run a command as `jaxdepth.cli.entry` does, with an exit of its own."""
    import jax

    from jaxdepth import cli
    from jaxdepth.weights import convert

    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ |= {"HF_DATASETS_CACHE": str(programs / "datasets")}
    os.environ |= {"XDG_DATA_HOME": str(programs / "inspect"), "HF_HUB_OFFLINE": "1"}
    convert.CHUNK_BYTES = CHUNK_BYTES
    sys.argv = ["jaxdepth", *words]
    status = 1
    try:
        cli.entry()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns or raises in a process of its own.

    Raises:
        Exception: that of the function; or RuntimeError, if its process died.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def call() -> None:
        try:
            sender.send((function(*arguments), None))
        except Exception as error:
            sender.send((None, error))

    process = context.Process(target=call)
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} died in its process") from None
    finally:
        process.join()
    if error is not None:
        raise error
    return result
