"""`jaxdepth export-logs`: a finished sweep as logs that Inspect reads."""

import pytest
from folders.runs import make_run

pytest.importorskip("inspect_ai", reason="the extra [inspect] is not installed")

from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.log import list_eval_logs, read_eval_log

from jaxdepth.cli import main
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.judging.tables import JUDGEMENTS
from jaxdepth.study.run_directory import Run, read_frame, read_record

EXITS = {12: (40, 10, 30), 30: (0, 20, 0)}


@pytest.fixture
def run(tmp_path):
    """A made-up run of 10 pairs at exits 12 and 30, with texts and a second judge."""
    path = make_run(tmp_path / "run", EXITS, pairs=10)
    run = Run(path, read_record(path))
    answers, judged = read_frame(path, "generations"), []
    for n, row in enumerate(rows := answers.to_dict("records")):
        row |= {"text": f"text {n}", "n_tokens": n % 7 + 1, "score": 0.5, "topicality": None}
        row["ended"] = ("eos", "length", "stop")[n % 3]
        row["stop"] = "END" if row["ended"] == "stop" else None
        seen = {"judge": "wildguard", "identity": "0", "verdict": "yes", "failed": False}
        judged.append({**row, **seen, "outcome": "refuse"})
    run.write_table("generations", GENERATIONS.from_rows(rows))
    run.write_table("judgements", JUDGEMENTS.from_rows(judged))
    return path


def read_all(folder) -> dict:
    logs = [read_eval_log(info) for info in list_eval_logs(str(folder))]
    return {log.eval.model_args["exit"]: log for log in logs}


def test_every_exit_is_a_log_with_outcomes_as_scores(run, capsys):
    assert main(["export-logs", str(run), "--to", "inspect"]) == 0
    printed = capsys.readouterr().out
    assert f"inspect view --log-dir {run / 'inspect'}" in printed
    logs = read_all(run / "inspect")
    assert sorted(logs) == sorted(EXITS)
    answers = read_frame(run, "generations").set_index(["exit", "prompt_id"])
    for exit_layer, log in logs.items():
        assert log.status == "success"
        assert log.eval.model == "jaxdepth/models/made up"
        assert len(log.samples) == 20
        for sample in log.samples:
            row = answers.loc[exit_layer, sample.id]
            assert sample.input == sample.id  # in this run the text of a prompt is its name
            assert [m.role for m in sample.messages] == ["user", "assistant"]
            assert sample.output.completion == row["text"]
            reason = {"eos": "stop", "stop": "stop", "length": "max_tokens"}[row["ended"]]
            assert sample.output.stop_reason == reason
            assert sample.scores["outcome"].value == row["outcome"]
            assert sample.scores["outcome"].metadata["score"] == 0.5
            assert "topicality" not in sample.scores["outcome"].metadata
            assert sample.scores["outcome (wildguard)"].explanation == "verdict: yes"
            assert sample.metadata["label"] == sample.id.partition("-")[2]
        own, judge = log.results.scores
        harmful = answers.loc[exit_layer].filter(like="harmful", axis=0)["outcome"]
        expected = (harmful == "comply").mean()
        assert own.metrics["harmful comply"].value == pytest.approx(expected)
        assert judge.metrics["harmless refuse"].value == 1
        assert sum(m.value for m in own.metrics.values()) == pytest.approx(2)


def test_data_frames_of_inspect_read_them(run):
    assert main(["export-logs", str(run), "--to", "inspect"]) == 0
    evals = evals_df(str(run / "inspect"))
    assert set(evals["task_name"]) == {"sweep"}
    samples = samples_df(str(run / "inspect"))
    assert len(samples) == 40
    assert set(samples["score_outcome"]) <= {"refuse", "comply", "off-topic"}


def test_a_second_export_replaces_the_first(run, tmp_path):
    for _ in range(2):
        words = ["export-logs", str(run), "--to", "inspect", "--out", str(tmp_path / "logs")]
        assert main(words) == 0
    assert len(list((tmp_path / "logs").iterdir())) == 2
    assert not (run / "inspect").exists()


def test_a_run_without_texts_has_scores_and_no_answers(tmp_path):
    path = make_run(tmp_path / "run", EXITS, pairs=10, samples=2)
    assert main(["export-logs", str(path), "--to", "inspect"]) == 0
    log = read_all(path / "inspect")[30]
    assert {(s.id, s.epoch) for s in log.samples} >= {("p0000-harmful", 1), ("p0000-harmful", 2)}
    assert log.eval.config.epochs == 2
    assert all(not s.output.choices and len(s.messages) == 1 for s in log.samples)
    assert all(s.scores["outcome"].value for s in log.samples)


def test_other_runs_are_refused(tmp_path, capsys):
    decided = make_run(tmp_path / "decided", EXITS, pairs=2, settings={"command": "decide"})
    unfinished = Run.open(tmp_path / "unfinished", {"command": "sweep"}, {}).path
    cases = [(decided, "is a run of decide"), (unfinished, "has no finished answers")]
    cases += [(tmp_path / "none", "is not a run directory")]
    for path, says in cases:
        assert main(["export-logs", str(path), "--to", "inspect"]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error
        assert not (path / "inspect").exists()
