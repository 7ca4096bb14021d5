"""`jaxdepth judge`: kept answers under other judges, reuse, failures, and agreement."""

import numpy as np
import pandas as pd
import pytest
from doubles.chat_server import chat_server
from doubles.guards import tiny_guard
from studies import settings_of

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.depth.continuation import continuation_logprobs
from jaxdepth.refusal import reference
from jaxdepth.refusal.outcome import BUILT_IN
from jaxdepth.study import run_directory
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.judging.run import judge_run
from jaxdepth.study.judging.settings import Rejudge
from jaxdepth.study.policies.tables import DYNAMIC
from jaxdepth.study.run_directory import Run, read_frame, read_record, read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep

pytestmark = pytest.mark.usefixtures("quick_programs")

SMALL = {"limit": 2, "batch_size": 4, "max_new_tokens": 6, "exits": "2,4"}
SOURCE = """
CALLS = {calls!r}

def judge(texts, prompts):
    with open(CALLS, "a") as file:
        file.writelines("x\\n" for _ in texts)
    return [{answer} for text in texts]

def second(texts, prompts):
    return ["comply" if len(text) % 2 else None for text in texts]

def broken(texts, prompts):
    raise OSError("the disk is full")
"""


@pytest.fixture
def run(tiny_path, tmp_path):
    """A new run: every test judges its own."""
    return sweep(settings_of(Sweep, tiny_path, tmp_path / "run", **SMALL)).path


@pytest.fixture
def file(tmp_path):
    (tmp_path / "calls").touch()
    file = tmp_path / "mine.py"
    file.write_text(SOURCE.format(calls=str(tmp_path / "calls"), answer="'refuse'"))
    return file


def judged(run, *judges, **changes):
    judge_run(Rejudge(run, judges, **changes))
    return read_frame(run, "judgements")


def calls(file) -> int:
    return len((file.parent / "calls").read_text().split())


def test_the_builtin_judge_says_what_the_run_says(run):
    rows = judged(run, "builtin").set_index(["prompt_id", "exit", "sample"])
    own = read_frame(run, "generations").set_index(["prompt_id", "exit", "sample"])
    assert len(rows) == len(own) == 8
    assert set(rows["judge"]) == {BUILT_IN}
    assert rows["outcome"].equals(own.loc[rows.index, "outcome"])
    np.testing.assert_allclose(rows["score"], own.loc[rows.index, "score"], atol=1e-6)
    agreement = read_frame(run, "judge_agreement")
    assert set(agreement["agreement"]) == {1.0}
    assert agreement["n"].tolist() == [8, 4, 4]


def test_a_model_that_has_moved_is_named_or_not_needed(run, tiny_path, tmp_path, file):
    moved = tmp_path / "moved"
    record = read_record(run)
    other = Run.open(moved, record["settings"], record["facts"] | {"model": "models/gone"})
    for name in ("prompts", "generations"):
        other.write_table(name, read_table(run, name))
    with pytest.raises(InputError, match=r"needs the run's model \(models/gone is not a .*--ref"):
        judged(moved, "builtin")
    rows = judged(moved, "builtin", reference=tiny_path)
    assert rows["outcome"].tolist() == read_frame(run, "generations")["outcome"].tolist()
    for name, judge, says in (
        ("model_fingerprint", f"python:{file}:judge", "is not the model that the run had"),
        ("template_sha256", "builtin", "has another chat template than the run had"),
        ("tokenizer_sha256", "builtin", "has another tokenizer than the run had"),
    ):
        settings = record["settings"] | {name: "0"}
        changed = Run.open(tmp_path / f"changed {name}", settings, record["facts"])
        for table in ("prompts", "generations"):
            changed.write_table(table, read_table(run, table))
        with pytest.raises(InputError, match=says):
            judged(changed.path, judge)


def test_a_judge_that_leaves_all_to_the_builtin_rule_changes_nothing(run):
    judge_run(Rejudge(run), functions=[lambda texts, prompts: [None] * len(texts)])
    rows = read_frame(run, "judgements")
    own = read_frame(run, "generations")
    assert rows["outcome"].tolist() == own["outcome"].tolist()
    assert rows["verdict"].isna().all()


def test_what_several_judges_need_is_scored_once(run, file, monkeypatch):
    scored = []

    def counted(model, prefixes, replies, of_reply, batch_size):
        scored.extend(
            (tuple(prefixes[z]), tuple(r)) for z, r in zip(of_reply, replies, strict=True)
        )
        return continuation_logprobs(model, prefixes, replies, of_reply, batch_size)

    monkeypatch.setattr(reference, "continuation_logprobs", counted)
    judged(run, "builtin", f"python:{file}:second")
    assert scored
    assert len(scored) == len(set(scored))


def test_judgements_are_reused_while_the_identity_is_the_same(run, file):
    spec, texts = f"python:{file}:judge", set()
    for row in read_frame(run, "generations").itertuples():
        texts.add((row.prompt_id, row.text))
    first = judged(run, spec)
    assert set(first["outcome"]) == {"refuse"}
    assert set(first["verdict"]) == {"refuse"}
    assert calls(file) == len(texts)  # equal answers to a prompt are judged once
    again = judged(run, spec, f"python:{file}:second", "builtin")
    assert calls(file) == len(texts)
    assert set(again["judge"]) == {"python:mine.py:judge", "python:mine.py:second", BUILT_IN}
    pd.testing.assert_frame_equal(again[again["judge"] == "python:mine.py:judge"], first)
    file.write_text(file.read_text().replace("'refuse'", "'partial'"))
    mended = judged(run, spec)
    assert calls(file) == 2 * len(texts)
    assert set(mended[mended["judge"] == "python:mine.py:judge"]["outcome"]) == {"partial"}
    assert len(mended) == len(again)  # the old judgements are replaced, the others stay


def test_a_judge_that_fails_loses_nothing(run, file, monkeypatch):
    monkeypatch.setattr("jaxdepth.study.judging.run.CHUNK", 2)
    spec, good = f"python:{file}:judge", file.read_text()
    file.write_text(good.replace("['", "(1 / 0 if len(open(CALLS).readlines()) > 4 else ['"))
    file.write_text(
        good.replace(
            "return ['refuse'", "assert len(open(CALLS).readlines()) < 5\n    return ['refuse'"
        )
    )
    with pytest.raises(
        InputError, match=r"AssertionError .* 4 of \d answers are judged by .* kept"
    ):
        judged(run, spec)
    record = read_record(run)
    assert "judgements" not in record["tables"]
    assert len(list((run / "parts" / "judgement_chunks").iterdir())) == 2
    before = calls(file)
    sweep(settings_of(Sweep, record["facts"]["model"], run, **SMALL))  # it keeps the chunks
    with pytest.raises(InputError, match="0 of"):
        judged(run, spec)
    assert calls(file) == before + 2  # those that are judged are not judged again
    with pytest.raises(
        InputError, match=r"broken raised OSError on 2 answers \(the disk is full\)"
    ):
        judged(run, "builtin", f"python:{file}:broken")
    rows = judged(run, "builtin")
    assert (rows["judge"] == BUILT_IN).sum() == 8
    assert (rows["judge"] == "python:mine.py:judge").any()
    assert not (run / "parts").exists()


def test_a_kill_while_the_table_is_replaced_loses_nothing(run, file, monkeypatch):
    spec = f"python:{file}:judge"
    first, before = judged(run, spec), calls(file)
    write = run_directory.atomic_write

    def killed(path, writer):
        if path.name == "judgements.parquet":
            raise KeyboardInterrupt
        write(path, writer)

    monkeypatch.setattr(run_directory, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        judged(run, "builtin")
    assert "judgements" not in read_record(run)["tables"]
    monkeypatch.undo()
    rows = judged(run, "builtin")
    pd.testing.assert_frame_equal(rows[rows["judge"] != BUILT_IN].reset_index(drop=True), first)
    assert calls(file) == before


def test_a_guard(run, tmp_path_factory, tiny_path):
    path = tiny_guard(tmp_path_factory.mktemp("guard"), "sorrybench")[0]
    rows = judged(run, f"sorrybench:{path}")
    assert set(rows["judge"]) == {"sorrybench"}
    asked = rows[rows["verdict"].notna()]
    assert set(asked["verdict"]) <= {"0", "1"}
    assert ((asked["score"] >= 0.5) & (asked["score"] <= 1)).all()
    own = read_frame(run, "generations")["outcome"]
    for row, outcome in zip(rows.itertuples(), own, strict=True):
        if row.verdict == "0":
            assert row.outcome == ("undetermined" if outcome == "comply" else outcome)


def test_an_endpoint_that_fails_is_asked_again(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("jaxdepth.judges.reply_cache.FOLDER", tmp_path / "cache")
    fails = []

    def answer(prompt, text, number):
        return (400, {}) if fails and "egg" not in prompt else '{"outcome": "off-topic"}'

    with chat_server(answer) as server:
        spec = f"openai:m@{server.url}"
        fails.append(True)
        rows = judged(run, spec)
        assert set(rows["outcome"]) == {"undetermined"}
        assert rows["failed"].all()
        assert rows["verdict"].isna().all()
        assert "gave no verdict on" in capsys.readouterr().err
        fails.clear()
        rows = judged(run, spec)
        assert set(rows["outcome"]) == {"off-topic"}
        assert not rows["failed"].any()


def test_answers_of_policies(run, tmp_path, file):
    """Made by hand from those of a sweep: two rules, and no exits."""
    record = read_record(run)
    settings = record["settings"] | {"command": "sweep --policy"}
    policies = Run.open(tmp_path / "policies", settings, record["facts"])
    policies.write_table("prompts", read_table(run, "prompts"))
    rows = [
        row | {"rule": f"fixed {row['exit']}", "policy": "fixed"}
        for row in read_table(run, "generations").to_pylist()
    ]
    policies.write_table(DYNAMIC.name, DYNAMIC.from_rows(rows))
    judgements = judged(policies.path, f"python:{file}:judge", "builtin")
    assert judgements["exit"].isna().all()
    assert set(judgements["rule"]) == {"fixed 2", "fixed 4"}
    own = judgements[judgements["judge"] == BUILT_IN]
    assert own["outcome"].tolist() == [row["outcome"] for row in rows]
    assert len(judgements) == 2 * len(rows)
    assert judged(policies.path, "builtin").equals(judgements)


def test_a_judge_reads_what_follows_a_thought(run, tmp_path, file):
    """Where the template opens the thought, its tag is not in the text that was kept."""
    record = read_record(run)
    thinking = Run.open(
        tmp_path / "thinking", record["settings"], record["facts"] | {"opens_thought": True}
    )
    thinking.write_table("prompts", read_table(run, "prompts"))
    texts = ("Let me think about it", "It is easy.</think>Mix flour and water.")
    rows = read_table(run, "generations").to_pylist()[:2]
    rows = [row | {"text": text} for row, text in zip(rows, texts, strict=True)]
    thinking.write_table(GENERATIONS.name, GENERATIONS.from_rows(rows))
    judgements = judged(thinking.path, f"python:{file}:judge")
    assert judgements["outcome"].tolist() == ["undetermined", "refuse"]
    assert judgements["verdict"].isna().tolist() == [True, False]
    assert calls(file) == 1  # a thought that does not end is no answer


def test_answers_of_verdicts(tiny_path, tmp_path, protocol, file):
    spec = f"python:{file}:second"
    bare = {"force": False, "swap": False, "cuts": (), "cost_rounds": 0, "limit": 3, "exits": "4"}
    run = jaxdepth.decide(tiny_path, out=tmp_path / "d", protocol=protocol, judge=spec, **bare)
    assert run.settings["judge"] == "python:mine.py:second"
    rows = judged(run.path, spec)
    assert rows["outcome"].tolist() == run.frame("verdicts")["answer_outcome"].tolist()
    assert rows["verdict"].notna().any()


def test_what_cannot_be_judged_is_one_line(tiny_path, tmp_path, run, capsys):
    settings = settings_of(Sweep, tiny_path, tmp_path / "bare", **SMALL, keep_text=False)
    bare = sweep(settings).path
    for args, says in (
        ((bare, "--judge", "builtin"), "keeps no texts (--no-keep-text)"),
        ((run,), "no judge is named"),
        ((run, "--judge", "wildgard:x"), "did you mean 'wildguard'?"),
        ((run, "--judge", f"wildguard:{tmp_path / 'none'}"), "is not a converted checkpoint"),
        ((tmp_path, "--judge", "builtin"), "is not a run directory"),
        ((run, "--judge", "builtin", "--reference", tmp_path), "is not a converted checkpoint"),
    ):
        assert main(["judge", *map(str, args)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("jaxdepth: error: ")
        assert says in err
        assert len(err.splitlines()) == 1
    assert "judgements" not in read_record(run)["tables"]


def test_the_command_and_the_library(run, file, capsys):
    args = ["judge", str(run), "--judge", "builtin", "--judge", f"python:{file}:second"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "Cohen's kappa" in printed
    assert "python:mine.py:second in columns" in " ".join(printed.split())
    assert printed.splitlines()[-1] == (
        f"Tables are in {run}: judgements.parquet, judge_agreement.parquet, judge_confusion.parquet"
    )
    opened = jaxdepth.open_run(run).judge("builtin", lambda texts, prompts: ["comply"] * len(texts))
    assert "judgements" in opened.tables
    names = set(opened.frame("judgements")["judge"])
    assert {BUILT_IN, "python:mine.py:second"} < names
    assert len(names) == 3


def test_a_sweep_takes_a_named_judge(tiny_path, tmp_path, file):
    spec = f"python:{file}:judge"
    run = jaxdepth.sweep(tiny_path, out=tmp_path / "s", judge=spec, **SMALL)
    assert set(run.frame("generations")["outcome"]) == {"refuse"}
    assert run.settings["judge"] == "python:mine.py:judge"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(InputError, match="judge_identity"):
        jaxdepth.sweep(tiny_path, out=tmp_path / "s", judge=spec, **SMALL)
