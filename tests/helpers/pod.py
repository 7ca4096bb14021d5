"""A pod on one machine: commands on virtual CPU devices, in one process or several.

    python tests/helpers/pod.py COMMANDS.json      each entry a list of words for `jaxdepth`

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
    """Start the commands in every process, each with its share of the 8 devices."""
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
        process_id = {"JAX_PROCESS_ID": str(number)} if processes > 1 else {}
        started.append(
            subprocess.Popen(
                [sys.executable, __file__, str(file)],
                env=os.environ | fixed | process_id | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def run(commands: list[list], folder: Path, processes: int = 1, **environment) -> list[str]:
    """Run the commands, which must succeed; returns the standard error of each process."""
    started = start(commands, folder, processes, **environment)
    errors = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, errors
    return errors


def same_tables(one: Path, other: Path, tolerance: float = 1e-5) -> set[str]:
    """Compare every table of two runs: numbers to `tolerance`, all else equal."""
    tables = [set(json.loads((run / "run.json").read_text())["tables"]) for run in (one, other)]
    assert tables[0] == tables[1]
    assert not (other / "parts").exists()
    for table in tables[0]:
        a, b = (pq.read_table(run / f"{table}.parquet") for run in (one, other))
        assert a.schema == b.schema
        for name in a.column_names:
            if str(a.schema.field(name).type) in ("float", "double"):
                x, y = (np.array(t[name].to_pylist(), float) for t in (a, b))
                np.testing.assert_allclose(
                    y, x, rtol=tolerance, atol=tolerance, err_msg=f"{table}.{name}"
                )
            elif str(a.schema.field(name).type).startswith("list<item: float"):
                for x, y in zip(a[name].to_pylist(), b[name].to_pylist(), strict=True):
                    np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance, err_msg=name)
            else:
                assert a[name].to_pylist() == b[name].to_pylist(), (table, name)
    return tables[0]


def _die_after(chunks: int) -> None:
    from jaxdepth.study.run_directory import Run

    left, write = [chunks], Run.write_part

    def counted(self, *args, **kwargs):
        write(self, *args, **kwargs)
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
