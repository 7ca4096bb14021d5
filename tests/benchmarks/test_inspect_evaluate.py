"""`jaxdepth evaluate --with inspect`: a log for each exit, from one pass over the prompts."""

import importlib.util
import sys

import pytest

pytest.importorskip("inspect_ai", reason="the extra [inspect] is not installed")

from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.log import list_eval_logs, read_eval_log
from inspect_ai.model import ModelAPI, ModelOutput, modelapi

from jaxdepth.benchmarks.inspect.engine import Engine
from jaxdepth.cli import main
from jaxdepth.depth.generation import generate
from jaxdepth.study.run_directory import read_frame

pytestmark = pytest.mark.usefixtures("quick_programs")
ROWS, LENGTH = 4, 160  # of all batches


@pytest.fixture(scope="module", autouse=True)
def _one_shape():
    """A program for each number of rows and each length would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdepth.benchmarks.inspect.queue._QUIET_SECONDS", 1.0)
        patch.setattr("jaxdepth.benchmarks.inspect.engine.padded_rows", lambda count, most: ROWS)
        patch.setattr("jaxdepth.benchmarks.inspect.engine._SHORTEST", LENGTH)
        yield


@pytest.fixture(scope="module")
def batches():
    """The exits and the number of rows of every batch that is decoded."""
    decoded, answer = [], Engine.answer

    def record(engine, batch):
        decoded.append((batch.exits, len(batch.requests)))
        return answer(engine, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "answer", record)
        yield decoded


def arguments(model, out, *tasks, limit=None):
    words = ["evaluate", model, *tasks, "--with", "inspect", "--exits", "2,4", "--out", out]
    words += ["--max-tokens", 4, "--batch-size", ROWS]
    return [str(word) for word in words + ([] if limit is None else ["--limit", limit])]


@pytest.fixture(scope="module")
def run(tiny_path, task_file, batches, tmp_path_factory):
    """A finished evaluation of three tasks: its folder, and the batches that were decoded."""
    out = tmp_path_factory.mktemp("evaluate") / "run"
    tasks = [f"{task_file}@{name}" for name in ("many", "chooses", "two_turns")]
    batches.clear()
    assert main(arguments(tiny_path, out, *tasks)) == 0
    return out, list(batches)


def test_first_turns_are_decoded_at_all_exits_at_once(run):
    _, batches = run
    together = [rows for exits, rows in batches if exits == [2, 4]]
    alone = [rows for exits, rows in batches if exits != [2, 4]]
    assert sum(together) >= 12 + 3 + 3
    # The second turns of both exits; less where both have said the same.
    assert sum(alone) + 2 * (sum(together) - 18) == 2 * 3


def test_every_exit_has_a_log_that_inspect_reads(run):
    out, _ = run
    logs = [read_eval_log(info) for info in list_eval_logs(str(out / "logs"))]
    assert sorted((log.eval.task, log.eval.model_args["exit"]) for log in logs) == [
        (task, e) for task in ("chooses", "many", "two_turns") for e in (2, 4)
    ]
    for log in logs:
        assert log.status == "success"
        assert log.eval.model.startswith("jaxdepth/")
        # No date, which this template does not print: a run may be resumed on another day.
        assert set(log.eval.model_args) == {"exit"}
        assert log.eval.model_generate_config.max_tokens is None
        assert log.plan.config.max_tokens == 4
        turns = 2 if log.eval.task == "two_turns" else 1
        for sample in log.samples:
            assert len([m for m in sample.messages if m.role == "assistant"]) == turns
            assert sample.output.metadata == {"exit": log.eval.model_args["exit"]}
            assert sample.output.stop_reason in ("stop", "max_tokens")
    frame = evals_df(str(out / "logs"))
    assert len(frame) == 6
    assert set(frame["status"]) == {"success"}
    assert len(samples_df(str(out / "logs"))) == 2 * (12 + 3 + 3)


def test_the_table_has_what_the_logs_have(run):
    out, _ = run
    scores = read_frame(out, "scores").set_index(["task", "exit"])
    assert set(scores["metric"]) == {"accuracy"}
    for info in list_eval_logs(str(out / "logs")):
        log = read_eval_log(info)
        row = scores.loc[log.eval.task, log.eval.model_args["exit"]]
        assert row["value"] == log.results.scores[0].metrics["accuracy"].value
        assert row["n"] == len(log.samples)
        has_interval = len(log.samples) >= 10  # fewer say too little
        assert (row["low"] == row["low"]) == has_interval
        if has_interval:
            assert row["low"] <= row["value"] <= row["high"]
    assert (out / "figures" / "accuracy.png").stat().st_size > 5000


def test_a_finished_run_is_printed_again(run, tiny_path, task_file, batches, capsys):
    out, _ = run
    tasks = [f"{task_file}@{name}" for name in ("many", "chooses", "two_turns")]
    batches.clear()
    assert main(arguments(tiny_path, out, *tasks)) == 0
    assert "many by exit (n=12)" in capsys.readouterr().out
    assert batches == []
    assert main(arguments(tiny_path, out, *tasks, limit=2)) == 2
    assert "limit" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_was(
    run, tiny_path, task_file, batches, tmp_path, monkeypatch, capsys
):
    words = arguments(tiny_path, tmp_path / "run", f"{task_file}@many")

    def fail(*args, **settings):
        if len(batches) == 3:
            raise OSError("the disk is gone")
        return generate(*args, **settings)

    batches.clear()
    with monkeypatch.context() as patch:
        patch.setattr("jaxdepth.benchmarks.inspect.engine.generate", fail)
        assert main(words) == 2
    failed = batches.pop()
    assert batches == [([2, 4], ROWS)] * 2  # all exits at once: one pass over the prompts
    error = capsys.readouterr().err
    assert "many failed at 2 of 2 exits" in error
    assert "the disk is gone" in error
    assert not (tmp_path / "run" / "scores.parquet").exists()
    assert main(words) == 0
    assert batches == [*[([2, 4], ROWS)] * 2, failed]  # none was answered twice
    whole, resumed = (read_frame(p, "scores") for p in (run[0], tmp_path / "run"))
    whole = whole[whole["task"] == "many"].reset_index(drop=True)
    assert whole.equals(resumed.reset_index(drop=True))


def test_mistakes_are_one_line_and_leave_nothing(tiny_path, task_file, tmp_path, capsys):
    out = tmp_path / "run"
    task = f"{task_file}@many"
    cases = [
        ((f"{task_file}@none",), (), "none"),
        ((task_file.parent / "nowhere.py",), (), "no such file with tasks"),
        (("no_such_task",), (), "No inspect tasks were found"),
        ((task,), ("--task-args", "n"), "NAME=VALUE"),
        ((task,), ("--task-args", "n=["), "not YAML"),
        ((task,), ("--task-args", "size=3"), "param 'size' not used by task"),
        ((task,), ("--exits", "5"), "exit 5 is out of range"),
        ((task,), ("--limit", "0"), "limit is 0"),
        ((task,), ("--memory-gb", "0"), "memory_gb"),
        ((task,), ("--with", "lm-eval"), "max-tokens: not an option of --with lm-eval"),
    ]
    for tasks, more, says in cases:
        assert main([*arguments(tiny_path, out, *tasks), *more]) == 2, says
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error
        assert not out.exists()


def test_a_missing_extra_is_named(tiny_path, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "jaxdepth.benchmarks.inspect.command", raising=False)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    assert main(arguments(tiny_path, tmp_path / "r", "some_task")) == 2
    assert "needs inspect_ai: pip install 'jaxdepth[inspect]'" in capsys.readouterr().err


EVALS = "the wheel inspect-evals is not installed"


@pytest.mark.skipif(importlib.util.find_spec("inspect_evals") is None, reason=EVALS)
def test_tasks_of_inspect_evals_whose_data_is_in_the_wheel(tiny_path, tmp_path):
    """Their prompts are longer than this model takes: they run, and say so."""

    @modelapi(name="fixed")
    class Fixed(ModelAPI):
        async def generate(self, input, tools, tool_choice, config):
            content = '{"reasoning": "None.", "score": 3, "rating": 3}'
            return ModelOutput.from_content("fixed", content)

    out = tmp_path / "run"
    words = arguments(tiny_path, out, "inspect_evals/persistbench_beneficial_memory", limit=1)
    assert main([*words, "--model-roles", "grader=fixed/judge"]) == 0
    logs = [read_eval_log(info) for info in list_eval_logs(str(out / "logs"))]
    assert sorted(log.eval.model_args["exit"] for log in logs) == [2, 4]
    for log in logs:
        assert log.status == "success"
        assert log.samples[0].output.stop_reason == "model_length"
    assert set(read_frame(out, "scores")["exit"]) == {2, 4}
