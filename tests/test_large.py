"""A full-size Mistral-7B through conversion and loading: memory, speed, kills (`make test-large`).

Needs 45 GB of disk (TMPDIR says where) and 18 GB of memory; prints what it measured.
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

TOOLS = Path(__file__).parent.parent / "tools"
# Peak resident memory of a process of its own, in GB.
PEAK = """
import re, sys
from pathlib import Path
def peak():
    said = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", said)[1]) * 1024 / 1e9
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
print(sum(leaf.nbytes for leaf in jax.tree.leaves(model)) / 1e9, peak())
"""
)


def forget(folder):
    """Drops a folder's pages from the file cache, so that every reader starts cold."""
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
    found = work()
    os.sync()
    return found, time.monotonic() - start


def leaves(target):
    said = json.loads((target / "jaxdepth.json").read_text())["leaves"]
    return {key: leaf["sha256"] for key, leaf in said.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("large")
    subprocess.run([sys.executable, TOOLS / "make_large.py", place / "source"], check=True)
    yield place
    shutil.rmtree(place)


def test_conversion_and_loading_at_size(place, capsys):
    source, target = place / "source", place / "target"
    forget(source)
    _, copying = timed(lambda: shutil.copytree(source, place / "copy"))
    shutil.rmtree(place / "copy")
    forget(source)
    (idle, peak), converting = timed(lambda: run(CONVERT, source, target))
    forget(target)
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


def test_killed_anywhere_it_ends_with_the_same_leaves(place):
    """Kills at random times, each a little further on, until a conversion gets through."""
    source, whole, target = place / "source", place / "target", place / "killed"
    shutil.rmtree(whole, ignore_errors=True)
    _, converting = timed(lambda: run(CONVERT, source, whole))
    wanted = leaves(whole)
    shutil.rmtree(whole)
    chance = random.Random(0)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", CONVERT, source, target])
        time.sleep(converting * chance.uniform(0.1, 0.3))  # what is done is not done again
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.returncode == -signal.SIGKILL, "it was done before it could be killed"
        assert not target.exists()
    kept = list((place / ".killed.partial" / "weights").iterdir())
    assert len(kept) > 4
    run(CONVERT, source, target)
    assert leaves(target) == wanted
    run(LOAD, target)  # holds what is on disk against those digests
