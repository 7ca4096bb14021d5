"""A pod on one machine: commands on virtual CPU devices, in one process or several.

    python tests/pod.py COMMANDS.json      each entry a list of words for `jaxdepth`

Exits with the status of the first command that fails. JAXDEPTH_KILL_AFTER=N kills the process
once it has written N chunks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

DEVICES = 8


def start(commands: list[list], folder: Path, processes: int = 1, **environment) -> list:
    """Starts the commands in every process; the machine's 8 devices are divided among them."""
    file = folder / f"commands{len(list(folder.glob('commands*')))}.json"
    file.write_text(json.dumps([[str(word) for word in command] for command in commands]))
    fixed = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES // processes),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        fixed |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    started = []
    for number in range(processes):
        mine = {"JAX_PROCESS_ID": str(number)} if processes > 1 else {}
        started.append(
            subprocess.Popen(
                [sys.executable, __file__, str(file)],
                env=os.environ | fixed | mine | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def run(commands: list[list], folder: Path, processes: int = 1, **environment) -> list[str]:
    """Runs them to their end; what each process said on standard error. They must succeed."""
    started = start(commands, folder, processes, **environment)
    said = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, said
    return said


def same_tables(one: Path, other: Path, most: float = 1e-5) -> set[str]:
    """Holds every table of a run against another's: numbers to `most`, all else equal."""
    tables = [set(json.loads((run / "run.json").read_text())["tables"]) for run in (one, other)]
    assert tables[0] == tables[1]
    assert not (other / "parts").exists()
    for table in tables[0]:
        a, b = (pq.read_table(run / f"{table}.parquet") for run in (one, other))
        assert a.schema == b.schema
        for name in a.column_names:
            if str(a.schema.field(name).type) in ("float", "double"):
                x, y = (np.array(t[name].to_pylist(), float) for t in (a, b))
                np.testing.assert_allclose(y, x, rtol=most, atol=most, err_msg=f"{table}.{name}")
            elif str(a.schema.field(name).type).startswith("list<item: float"):
                for x, y in zip(a[name].to_pylist(), b[name].to_pylist(), strict=True):
                    np.testing.assert_allclose(y, x, rtol=most, atol=most, err_msg=name)
            else:
                assert a[name].to_pylist() == b[name].to_pylist(), (table, name)
    return tables[0]


def _die_after(chunks: int) -> None:
    from jaxdepth.study.run_directory import Run

    left, write = [chunks], Run.write_part

    def counted(self, *args, **how):
        write(self, *args, **how)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    Run.write_part = counted


if __name__ == "__main__":
    from jaxdepth.cli import main

    if "JAXDEPTH_KILL_AFTER" in os.environ:
        _die_after(int(os.environ["JAXDEPTH_KILL_AFTER"]))
    for words in json.loads(Path(sys.argv[1]).read_text()):
        status = main(words)
        if status:
            sys.exit(status)
