"""A full-size Mistral-7B through conversion and loading: memory, speed, kills (`make test-large`).

Needs 45 GB of disk (TMPDIR says where) and 18 GB of memory; prints its measurements.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.large

TOOLS = Path(__file__).parents[2] / "tools"
# Peak resident memory of a process of its own, in GB.
PEAK = """
import re, sys
from pathlib import Path
def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024 / 1e9
"""
CONVERT = (
    PEAK
    + """
from orbax.checkpoint import v1
import jaxdepth.weights.convert as c
before = peak()
if len(sys.argv) > 2:
    c.convert(sys.argv[1], sys.argv[2])
print(before, peak())
"""
)
LOAD = (
    PEAK
    + """
import jax, jaxdepth
model, _ = jaxdepth.load(sys.argv[1])
jax.block_until_ready(model)
print(sum(array.nbytes for array in jax.tree.leaves(model)) / 1e9, peak())
"""
)


def drop_cache(folder):
    """Drop a folder\'s pages from the file cache, so that every reader starts cold."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return tuple(map(float, done.stdout.split()[-2:]))


def timed(work):
    start = time.monotonic()
    result = work()
    os.sync()
    return result, time.monotonic() - start


def digests(target):
    records = json.loads((target / "jaxdepth.json").read_text())["leaves"]
    return {key: record["sha256"] for key, record in records.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    subprocess.run([sys.executable, TOOLS / "make_large.py", folder / "source"], check=True)
    yield folder
    shutil.rmtree(folder)


def test_conversion_and_loading_at_size(folder, capsys):
    source, target = folder / "source", folder / "target"
    drop_cache(source)
    _, copying = timed(lambda: shutil.copytree(source, folder / "copy"))
    shutil.rmtree(folder / "copy")
    drop_cache(source)
    (idle, peak), converting = timed(lambda: run(CONVERT, source, target))
    drop_cache(target)
    (weights, loaded), loading = timed(lambda: run(LOAD, target))
    with capsys.disabled():
        print(
            f"\n{weights:.1f} GB: converted at {copying / converting:.2f} of the speed of copying, "
            f"{peak - idle:.2f} GB above the interpreter's {idle:.2f}; loaded at "
            f"{copying / loading:.2f} of that speed with {loaded / weights:.2f} x the weights"
        )
    assert peak - idle < 4
    assert loaded < 1.15 * weights
    assert max(converting, loading) < 2 * copying


def test_killed_anywhere_it_ends_with_the_same_arrays(folder):
    """Kills at random times, each a little further on, until a conversion gets through."""
    source, whole, target = folder / "source", folder / "target", folder / "killed"
    shutil.rmtree(whole, ignore_errors=True)
    _, converting = timed(lambda: run(CONVERT, source, whole))
    expected = digests(whole)
    shutil.rmtree(whole)
    chance = random.Random(0)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", CONVERT, source, target])
        time.sleep(converting * chance.uniform(0.1, 0.3))  # what is done is not done again
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.returncode == -signal.SIGKILL, "it was done before it could be killed"
        assert not target.exists()
    kept = list(folder.glob(".killed.*.partial/weights/*"))
    assert len(kept) > 4
    run(CONVERT, source, target)
    assert digests(target) == expected
    run(LOAD, target)  # compares the arrays on disk with those digests
