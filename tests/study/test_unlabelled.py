"""Prompts without labels: a sweep gives their outcomes; what needs labels says so in one line."""

import json

import pytest
from folders.prompt_files import BREAD, EGG, write_file
from studies import settings_of

from jaxdepth.cli import main
from jaxdepth.judges.own import OwnJudge
from jaxdepth.prompts.prompt import Prompt
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.sweep.summary import print_outcomes

pytestmark = pytest.mark.usefixtures("quick_programs")

SAID = ("--columns", "prompt=question", "--exits", "4", "--max-new-tokens", "1")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    rows = [{"question": BREAD}, {"question": EGG}]
    return write_file(tmp_path_factory.mktemp("asked"), "asked.jsonl", rows)


@pytest.fixture(scope="module")
def swept(tiny_path, asked, tmp_path_factory):
    """A sweep of two unlabelled prompts and a harmless one."""
    out = tmp_path_factory.mktemp("swept") / "run"
    words = ["--prompts", asked, "builtin:ordinary[:1]", *SAID, "--out", str(out)]
    assert main(["sweep", str(tiny_path), *words]) == 0
    return out


def test_a_sweep_counts_them_apart(swept):
    assert read_frame(swept, "prompts")["label"].tolist() == ["unlabelled"] * 2 + ["harmless"]
    curve = read_frame(swept, "curve")
    for metric in ("kl_to_full", "outcome_undetermined", "outcome_comply"):
        counts = curve[curve["metric"] == metric].groupby("label")["n"].first()
        assert counts.to_dict() == {"harmless": 1, "unlabelled": 2}
    windows = read_frame(swept, "windows")
    assert windows["verdict"].isna().all()
    assert set(windows["harmless_n"]) == {1}
    assert json.loads((swept / "run.json").read_text())["facts"]["columns"] == ["prompt=question"]


def test_a_report_shows_them_as_what_they_are(swept, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", str(swept), "--out", str(page)]) == 0
    text = page.read_text()
    assert "asked.jsonl: 2 unlabelled" in text
    assert '"harmful": "220"' in text


@pytest.mark.slow
def test_policies_and_a_run_without_any_label(tiny_path, asked, tmp_path, capsys):
    words = ["--prompts", asked, *SAID[:2], "--policy", "top1=0.5", "--out", str(tmp_path / "run")]
    words += ["--exits", "2,4", "--max-new-tokens", "2"]
    assert main(["sweep", str(tiny_path), *words]) == 0
    assert "unlabelled prompts" in capsys.readouterr().out
    assert set(read_frame(tmp_path / "run", "policies")["label"]) == {"unlabelled"}


def test_a_run_is_a_source_of_prompts_and_the_same_run(swept, tiny_path, monkeypatch):
    """The same prompts from its own table: nothing is computed again."""
    monkeypatch.setattr("jaxdepth.study.sweep.run.in_parts", _compute_nothing)
    same = {"prompts": str(swept), "exits": "4", "max_new_tokens": 1}
    assert sweep(settings_of(Sweep, tiny_path, swept, **same)).finished("generations")


def _compute_nothing(run, names, batches, rows, bar):
    assert all(run.finished(name) for name in names)


def test_they_are_counted_in_words(swept, capsys):
    print_outcomes(swept)
    assert "2 prompts are unlabelled: their outcomes are counted apart" in capsys.readouterr().out


def test_what_needs_labels_says_so(tiny_path, protocol, asked, tmp_path, capsys):
    for command, *words in (("probe",), ("decide", "--protocol", protocol)):
        out = ["--out", str(tmp_path / command), "--prompts", asked, "--columns", "prompt=question"]
        assert main([command, str(tiny_path), *words, *out]) == 2
        error = capsys.readouterr().err
        assert "by the labels of prompts, and 2 have none, the first asked-0001" in error
        assert error.count("\n") == 1
        assert not (tmp_path / command).exists()


def test_a_judge_of_harmful_prompts_is_asked_about_them():
    class Judge(OwnJudge):
        asks_about = "harmful"

        def __init__(self):
            self._known, self._label_of, self.asked = {}, {}, []

        def ask_pairs(self, pairs):
            self.asked += pairs
            return [None] * len(pairs)

    judge = Judge()
    labels = {"a": "harmful", "b": "harmless", "c": None}
    judge.read_labels(Prompt(t, t, label, None, None, "s") for t, label in labels.items())
    judge.verdicts(["x"] * 3, list(labels))
    assert [prompt for prompt, _ in judge.asked] == ["a", "c"]


def test_a_prompt_that_is_too_long_is_named(tiny_path, tmp_path, capsys):
    lines = ["Fine."] * 3
    file = write_file(tmp_path, "asked.txt", "\n".join([*lines, "word " * 400, "bread " * 300]))
    for command in ("sweep", "probe"):
        assert main([command, str(tiny_path), "--prompts", f"harmful={file}"]) == 2
        error = capsys.readouterr().err
        assert "prompt asked-0004 of asked.txt has " in error
        assert "(2 prompts are too long)" in error
