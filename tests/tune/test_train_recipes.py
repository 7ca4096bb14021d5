"""tools/train_recipes.py: which commands it runs, and how it runs them at once until a time."""

import time
from pathlib import Path

import pytest

from jaxdepth.commands.parsing import parse
from jaxdepth.settings_file import flatten, read_settings
from jaxdepth.study.thinking.arms import ARMS, Unit, parse_unit, training_settings
from jaxdepth.study.tuning.settings import Tune


@pytest.fixture
def tool(import_tool):
    return import_tool("train_recipes")


def test_every_command_is_one_that_tune_takes(tool):
    jobs = tool.training_jobs(Path("models/mine"), Path("runs/tune"))
    assert len({job.name for job in jobs}) == len(jobs) == 23
    for job in jobs:
        settings = flatten(parse(Tune, job.command[2:], "tune"))
        assert settings["out"] == job.makes.parent
        assert job.name.endswith(f"-{settings['seed']}")


def test_arms_are_trained_as_the_comparison_trains_them(tool):
    recipe = read_settings(Tune, "tune/thinker")
    for job in tool.training_jobs(Path("models/mine"), Path("runs/tune")):
        if job.name.rpartition("-")[0] in ARMS:
            unit: Unit = parse_unit(job.name)
            settings = flatten(parse(Tune, job.command[2:], "tune"))
            expected = training_settings(unit, recipe) | {"out": job.makes.parent}
            assert {name: settings[name] for name in expected} == expected


def test_jobs_run_at_once_and_are_stopped(tool, tmp_path, monkeypatch, capsys):
    (tmp_path / "quick.py").write_text("import sys; open(sys.argv[1], 'w').close()")
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    (tmp_path / "wrong.py").write_text("raise SystemExit('no such thing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = [tmp_path / name for name in ("a", "b", "c", "d", "e")]
    made[4].touch()
    jobs = [
        tool.Job("slow", ("slow",), made[0]),
        tool.Job("wrong", ("wrong",), made[1]),
        tool.Job("first", ("quick", str(made[2])), made[2]),
        tool.Job("second", ("quick", str(made[3])), made[3]),
        tool.Job("there", ("wrong",), made[4]),
    ]
    begun = time.monotonic()
    tool.run_jobs(jobs, 2, begun + 4, tmp_path / "logs")
    assert time.monotonic() - begun < 15, "the slow one is stopped"
    assert [path.exists() for path in made] == [False, False, True, True, True]
    said = capsys.readouterr().out
    assert f"wrong failed, see {tmp_path / 'logs' / 'wrong.log'}" in said
    assert "first finished" in said
    assert "there" not in said
    assert "no such thing" in (tmp_path / "logs" / "wrong.log").read_text()


def test_unknown_names_are_refused(tool, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").touch()
    monkeypatch.setattr("sys.argv", ["train_recipes", str(tmp_path), "--only", "spoken"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "--only spoken: there are depth_robust-1" in capsys.readouterr().err
