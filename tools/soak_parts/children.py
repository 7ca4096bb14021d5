"""Commands of `jaxdepth` in processes of their own, and how much work each has done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL_SECONDS = 0.02
# Conversions in chunks of a few tensors, so that a kill falls between two.
_PROGRAM = """
import sys
from jaxdepth.weights import convert
convert.CHUNK_BYTES = 20_000
from jaxdepth.cli import entry
sys.argv[0] = "jaxdepth"
entry()
"""


class Child:
    """A command that runs."""

    def __init__(self, words: Sequence[str], folder: Path, log: Path) -> None:
        """Start it.

        Args:
            words: of the command line.
            folder: the working directory, two levels below the place of the soak.
            log: the file for what it prints.
        """
        programs = folder.parents[1] / "programs"
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(programs / "datasets"),
            "XDG_DATA_HOME": str(programs / "inspect"),
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def status(self) -> int | None:
        """Its exit status, -9 after SIGKILL; None while it runs."""
        return self._process.poll()

    def cpu_seconds(self) -> float:
        """The processor time that it has used, which a busy machine does not change (Linux)."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = 1e9) -> None:
        """Wait until it has ended, or something is so, or it has used so much processor time."""
        while self.status is None and self.cpu_seconds() < seconds and not until():
            time.sleep(_POLL_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)
