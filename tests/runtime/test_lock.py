"""One process at a time on a target: real processes, one of them killed while it holds the lock."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pod
import pytest
from labelled_runs import write_run
from tiny import hf_tensors, raw_config, write_folder

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.runtime import lock
from jaxdepth.runtime.lock import hold_folder, hold_target, one_at_a_time
from jaxdepth.study.run_directory import Run
from jaxdepth.weights import atomic_folder
from jaxdepth.weights import convert as convert_module
from jaxdepth.weights.convert import convert

RAW = raw_config(num_hidden_layers=2)
HOLD = """
import sys
from jaxdepth.runtime import lock
with getattr(lock, sys.argv[1])(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""
SLOW_CONVERT = """
import sys, time
from jaxdepth.weights import convert
write = convert._write_chunk
def slow(*args):
    print("held", flush=True)
    sys.stdin.read()
    write(*args)
convert._write_chunk = slow
sys.exit(not convert.convert(sys.argv[1], sys.argv[2]))
"""


@contextmanager
def process(script, *arguments):
    """A process once it holds its lock; it ends when its standard input is closed."""
    words = [sys.executable, "-c", script, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as child:
        try:
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def run_holder(folder):
    """A process that holds the lock of the folder `run`, which has none of a run's files yet."""
    with process(HOLD, "hold_folder", folder / "run") as child:
        yield child


@pytest.mark.parametrize(
    "command",
    [
        ("sweep", "MODEL", "--out", "RUN"),
        ("sweep", "MODEL", "--policy", "fixed=1", "--out", "RUN"),
        ("decide", "MODEL", "--out", "RUN"),
        ("probe", "MODEL", "--out", "RUN"),
        ("probe", "MODEL", "--against", "OTHER", "--out", "RUN"),
        ("tune", "MODEL", "--out", "RUN"),
        ("judge", "RUN", "--judge", "builtin"),
    ],
    ids=lambda words: "-".join(w.strip("-").lower() for w in words if w not in ("MODEL", "--out")),
)
def test_a_command_is_refused_before_it_looks_at_anything(folder, run_holder, command, capsys):
    words = [str(folder / "run") if word == "RUN" else word for word in command]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder / 'run'} is in use by process {run_holder.pid} on " in line
    assert " since 20" in line
    assert "wait until that ends, or name another folder" in line


def test_other_folders_are_free_meanwhile(folder, run_holder):
    with hold_folder(folder / "run" / "inside"), hold_folder(folder / "another"):
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["run"]


def test_a_killed_holder_hinders_nobody(tmp_path):
    with process(HOLD, "hold_folder", tmp_path / "run") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert (tmp_path / "run" / ".lock").is_file()  # what it has left
        with hold_folder(tmp_path / "run"):
            Run.open(tmp_path / "run", {"seed": 0}, {})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "log.txt"}


def test_blocks_within_each_other_and_threads(tmp_path):
    """One thread may hold a lock twice; another thread is as another process."""
    refused = []

    @one_at_a_time(lambda path: path)
    def study(path):
        with hold_folder(path):
            pass
        other = threading.Thread(target=hold_elsewhere, args=(path,))
        other.start()
        other.join()

    def hold_elsewhere(path):
        try:
            with hold_folder(path):
                raise AssertionError("two threads hold one lock")
        except InputError as error:
            refused.append(str(error))

    study(tmp_path / "a" / "run")
    assert f"process {os.getpid()} on" in refused[0]
    assert not list(tmp_path.iterdir())  # nothing was written, so no folder is left


def test_who_waited_for_a_file_that_is_gone_tries_again(tmp_path, monkeypatch):
    """Between opening the file and locking it, its holder may have removed it."""
    real, opened = lock.fcntl.flock, []

    def flock(descriptor, operation):
        if not opened:
            (tmp_path / ".lock").unlink()
        opened.append(descriptor)
        return real(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with hold_folder(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / ".lock").is_file()


def test_a_file_system_without_locks_is_said_so(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with hold_folder(tmp_path / "run"):
        pass
    assert "has no locks: run one command at a time there" in capsys.readouterr().err


def test_what_is_no_record_of_a_holder_is_not_believed(tmp_path):
    for content in (b"", b"[" * 10_000, b'{"process": 3, "job": []}', b"\xff\0"):
        (tmp_path / ".lock").write_bytes(content)
        with (tmp_path / ".lock").open("rb+") as held:
            lock.fcntl.flock(held, lock.fcntl.LOCK_EX)
            with pytest.raises(InputError, match="is in use by another process: wait"):
                hold_folder(tmp_path).__enter__()


def sources(folder):
    """Two models of one shape."""
    for seed, name in enumerate(("one", "other")):
        yield write_folder(folder / name, RAW, hf_tensors(ModelConfig.from_hf(RAW), seed))


def test_two_conversions_to_one_target(tmp_path, capsys):
    """The second is told at once; the first ends as if it had been alone, killed once before."""
    one, other = sources(tmp_path)
    target = tmp_path / "target"
    with process(SLOW_CONVERT, one, target) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with process(SLOW_CONVERT, one, target) as child:
        for words in (["convert", other, target], ["export", other, target]):
            assert main(list(map(str, words))) == 2
            assert f"{target} is in use by process {child.pid}" in capsys.readouterr().err
        child.stdin.close()
        assert child.wait() == 0
    assert not convert(one, target)  # it is there, and of this source
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "target"]


def test_an_unfinished_folder_of_another_process_is_taken_over(tmp_path, monkeypatch):
    one, _ = sources(tmp_path)
    left = tmp_path / ".target.elsewhere-77.partial"
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(convert_module.checkpoint, "write_manifest", lambda *args: 1 / 0)
    monkeypatch.setattr(atomic_folder, "_remove", lambda folder: None)
    with pytest.raises(ZeroDivisionError):
        convert(one, tmp_path / "target")
    monkeypatch.undo()
    next(tmp_path.glob(".target.*.partial")).rename(left)
    (tmp_path / ".target.q4.partial" / "kept").mkdir(parents=True)  # of a target named target.q4
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(convert_module, "_write_chunk", lambda *args: 1 / 0)  # all are there
    assert convert(one, tmp_path / "target")
    assert not left.exists()
    assert (tmp_path / ".target.q4.partial" / "kept").is_dir()


def test_processes_of_one_job_wait_for_the_one_that_converts(tmp_path):
    one, _ = sources(tmp_path)
    pod.run([["convert", one, tmp_path / "target"]], tmp_path, processes=2)
    assert not convert(one, tmp_path / "target")
    assert json.loads((tmp_path / "target" / "jaxdepth.json").read_text())["format"] == 3


@pytest.mark.parametrize("hold", [hold_folder, hold_target])
def test_no_folder_has_a_nul_in_its_name(tmp_path, hold):
    with pytest.raises(InputError, match="cannot be the name of a folder"), hold(tmp_path / "a\0b"):
        pass
    assert not [*tmp_path.iterdir()]


def test_a_target_is_free_again(tmp_path):
    with hold_target(tmp_path / "new" / "target") as is_mine:
        assert is_mine
        with pytest.raises(InputError, match="in use"):
            hold_target(tmp_path / "new" / "target").__enter__()
    assert not list(tmp_path.iterdir())


def test_a_rater_labels_in_one_process(tmp_path, capsys):
    run, words = write_run(tmp_path / "run"), ["--export", str(tmp_path / "texts.csv"), "--rater"]
    with process(HOLD, "hold_target", run / "labels" / "ann"):
        assert main(["label", str(run), *words, "ann"]) == 2
        assert "labels/ann is in use by process" in capsys.readouterr().err
        assert main(["label", str(run), *words, "bob"]) == 0
