"""The log of a run, and commands that are quiet."""

import logging
import re

import pytest
from studies import settings_of

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.runtime import distributed
from jaxdepth.runtime.lock import hold_folder
from jaxdepth.runtime.log import begin_log, logger, warn
from jaxdepth.study.run_directory import Run
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING|ERROR) (.+)")
SMALL = {"limit": 2, "batch_size": 2, "max_new_tokens": 0, "exits": "1"}


def lines(run):
    """What the log says, each with its level."""
    return [LINE.fullmatch(line).groups() for line in (run / "log.txt").read_text().splitlines()]


def test_what_a_log_says(tiny_path, tmp_path, capsys):
    """A sweep, the same once more, and other settings that are refused."""
    out = tmp_path / "run"
    sweep(settings_of(Sweep, tiny_path, out, **SMALL))
    first = [text for _, text in lines(out)]
    assert re.fullmatch(r"jaxdepth \S+, process \d+ on .*", first[0])
    assert "first_token: 4 of 4 prompts" in first
    assert "table first_token: 4 rows" in first
    assert re.fullmatch(r"done in [\d.]+ s", first[-1])
    sweep(settings_of(Sweep, tiny_path, out, **SMALL))
    again = [text for _, text in lines(out)][len(first) :]
    assert again[1] == "tables so far: prompts, first_token"
    with pytest.raises(InputError):
        sweep(settings_of(Sweep, tiny_path, out, **SMALL | {"seed": 7}))
    assert len(lines(out)) == len(first) + len(again)  # that run was not touched
    assert not capsys.readouterr().err
    assert logger.level == logging.NOTSET


def test_how_a_run_ended(tmp_path, capsys, monkeypatch):
    def attempt(end):
        with hold_folder(tmp_path / "run"):
            with hold_folder(tmp_path / "run"):  # as a study in its command
                Run.open(tmp_path / "run", {}, {})
                warn("a \x1b[2J screen")
            end()

    def fail(error):
        raise error

    printed = logging.StreamHandler()  # as some library gives the root logger one
    monkeypatch.setattr(logging.getLogger(), "handlers", [printed])
    monkeypatch.setattr(printed, "emit", lambda record: fail(AssertionError(record)))
    attempt(lambda: None)
    for error in (InputError("wrong"), KeyboardInterrupt(), ZeroDivisionError("by 0")):
        with pytest.raises(type(error)):
            attempt(lambda error=error: fail(error))
    assert capsys.readouterr().err.count("jaxdepth: warning: a \\x1b[2J screen\n") == 4
    text = (tmp_path / "run" / "log.txt").read_text()
    assert text.count("WARNING a \\x1b[2J screen\n") == 4
    for end in (
        r"INFO done in",
        r"ERROR wrong\n",
        r"INFO interrupted\n",
        r"ERROR it failed\nTrace",
    ):
        assert len(re.findall(end, text)) == 1
    assert "ZeroDivisionError: by 0" in text


def test_nothing_is_left_of_what_did_not_begin(tmp_path):
    with hold_folder(tmp_path / "run"):
        logger.info("read")
    assert not list(tmp_path.iterdir())
    begin_log(tmp_path / "elsewhere")  # no log is kept there
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_removed_but_for_its_log(tmp_path):
    with hold_folder(tmp_path / "run"):
        Run.open(tmp_path / "run", {}, {})
    (tmp_path / "run" / "run.json").unlink()
    with hold_folder(tmp_path / "run"):
        Run.open(tmp_path / "run", {"seed": 3}, {})
    assert len(lines(tmp_path / "run")) == 4


def test_quiet(tiny_path, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["sweep", tiny_path, "--out", out, "--limit", "2", "--exits", "1"]
    words = [str(word) for word in [*words, "--max-new-tokens", "0", "--quiet"]]
    assert main(words) == 0
    assert capsys.readouterr() == ("", "")
    assert (out / "curve.parquet").is_file()
    assert main(["--quiet", *words[:-1], "--seed", "1"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert main(words[:-1]) == 0
    assert "Tables are in" in capsys.readouterr().out


def test_convert_on_the_hosts_of_a_slice_is_one_job(tmp_path, monkeypatch, capsys):
    """They have nothing in common but their command, also once conversion has chosen the CPU."""
    from jaxdepth.weights import convert

    names = []
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(distributed.os.path, "exists", lambda path: path == "/dev/accel0")
    monkeypatch.setattr(convert, "hold_target", lambda target: names.append(distributed.job_name()))
    monkeypatch.setattr("jax.config.update", lambda name, value: None)
    with pytest.raises(TypeError):  # what stands for the lock is none
        main(["convert", str(tmp_path / "source"), str(tmp_path / "target")])
    assert names[0].startswith("tpu ")
