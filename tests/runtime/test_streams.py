"""Terminals, disks and folders that are not as one would wish: work goes on, or ends in a line."""

import asyncio
import errno
import io
import os
import subprocess
import sys

import jax
import pytest

from jaxdepth.cli import guarded
from jaxdepth.errors import InputError
from jaxdepth.runtime import profiling, streams
from jaxdepth.runtime.profiling import end_profile, start_profile, use_compilation_cache
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.weights.huggingface import hub
from jaxdepth.weights.orbax_errors import silence_orbax


def test_a_terminal_without_other_letters(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert guarded(lambda: print("Modèle \udcff") or 0) == 0
    sys.stdout.flush()
    assert written.getvalue() == b"Mod\\xe8le \\udcff\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_standard_error_that_is_full(monkeypatch):
    """The status is that of the work, not that of the message about it."""

    def fail():
        with progress_bar("working", "steps") as progress:
            progress(1, 2)
        raise InputError("something that a user can mend")

    before = sys.stderr
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert guarded(fail) == 2
        assert guarded(lambda: 0) == 0
        assert sys.stderr is full
    monkeypatch.setattr(sys, "stderr", before)


def test_standard_output_that_is_full_is_an_error(monkeypatch, capsys):
    def fail():
        raise OSError(28, "No space left on device")

    assert guarded(fail) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_no_cursor_codes_without_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with progress_bar("working", "steps") as progress:
        progress(1, 2)
    assert "working" in written.getvalue()
    assert "\x1b" not in written.getvalue()


def test_a_profile_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    start_profile(tmp_path / "file" / "profile")
    end_profile()  # none was begun
    (line,) = capsys.readouterr().err.splitlines()
    assert "the profile will not be kept" in line

    def stop():
        raise RuntimeError("the disk is\nfull")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    start_profile(tmp_path / "profile")
    end_profile()
    (line,) = capsys.readouterr().err.splitlines()
    assert "the profile cannot be written (the disk is full)" in line


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    updated = {}
    folder = str(tmp_path / "file" / "programs")
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", folder)
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    use_compilation_cache()
    assert updated == {"jax_compilation_cache_dir": None}
    assert "compiled programs will not be kept" in capsys.readouterr().err
    assert profiling.COMPILATION_CACHE.name == "programs"


def test_a_folder_of_matplotlib_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    code = "import jaxdepth.study.figures as f; f.new_figure(1).savefig('drawn.png')"
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path / "file" / "mpl")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "matplotlib's list of fonts will not be kept" in line
    assert (tmp_path / "drawn.png").is_file()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_cache_of_the_hub_that_cannot_be_written(tmp_path, monkeypatch, capsys, code):
    """What it holds is used; what it lacks ends in one line."""
    (tmp_path / "model.safetensors").write_text("x")
    asked = []

    def download(name, *, local_files_only, **request):
        asked.append(local_files_only)
        if not local_files_only:
            raise OSError(code, "Read-only", str(tmp_path))
        if name == "some/other":
            raise FileNotFoundError("not in the cache")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.fetch_model("some/model") == tmp_path
    (line,) = capsys.readouterr().err.splitlines()
    assert "the cache of the hub cannot be written" in line
    assert asked == [False, True, True]
    with pytest.raises(InputError, match=r"cannot be downloaded from the hub \(not in the cache"):
        hub.fetch_model("some/other")


def test_paths_are_read_as_utf8(monkeypatch):
    begun = []
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    monkeypatch.setattr(os, "execv", lambda program, words: begun.append(words))
    streams.run_in_utf8()  # as here
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    streams.run_in_utf8()
    assert begun == [[sys.executable, *sys.orig_argv[1:]]]
    assert os.environ["PYTHONUTF8"] == "1"
    streams.run_in_utf8()  # never twice
    assert len(begun) == 1
    monkeypatch.delenv("PYTHONUTF8")


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (RuntimeError("Event loop is closed"), None),
        (OSError("Too many open files"), asyncio.BaseEventLoop.__del__),
    ],
)
def test_what_orbax_abandons_is_not_printed(capsys, error, where):
    """With few file descriptors a write ends early, and others of its event loop with it."""

    class Unraisable:
        exc_value, object = error, where

    before = sys.unraisablehook
    try:
        with silence_orbax():
            sys.unraisablehook(Unraisable)
    finally:
        sys.unraisablehook = before
    assert not capsys.readouterr().err
