"""Models compared: shares and paired contrasts by hand; both experiments on a tiny model."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import as_outcomes, settings_of

from jaxdepth import InputError
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import wilson
from jaxdepth.study.comparison.figures import draw_compared
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.run import model_name, run_study
from jaxdepth.study.comparison.settings import Study
from jaxdepth.study.comparison.summary import findings, overview, words
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.tuning.run import tune
from jaxdepth.study.tuning.settings import Tune

pytestmark = pytest.mark.usefixtures("quick_programs")

REFUSE, COMPLY = Outcome.REFUSE, Outcome.COMPLY
N = 40


@pytest.fixture(scope="module")
def compared() -> Compared:
    """Two models, exits 2 and 4; `a` refuses all harmful at 4 and every fifth at 2, `b` none."""
    harmful_N = np.arange(N) % 2 == 0
    outcome_MNE = np.full((2, N, 2), "comply", dtype=object)
    outcome_MNE[0, harmful_N, 1] = "refuse"
    outcome_MNE[0, harmful_N & (np.arange(N) % 10 == 0), 0] = "refuse"
    outcome_MNE[1, 0, 0] = "degenerate"
    groups_N = np.where(harmful_N, "set harmful", "set harmless")
    return Compared(("a", "b"), (2, 4), groups_N, np.arange(N) // 2, as_outcomes(outcome_MNE))


def test_shares_and_contrasts_by_hand(compared):
    assert compared.share("a", "harmful", 2, REFUSE) == Estimate(0.2, *wilson(4, 20), n=20)
    assert compared.share("a", "harmful", 4, REFUSE) == Estimate(1.0, *wilson(20, 20), n=20)
    assert compared.share("a", "set", 4, REFUSE, COMPLY).value == 1.0
    mean = compared.over_exits("a", "harmful", (2, 4), REFUSE)
    assert mean.value == pytest.approx(0.6)
    assert 0.48 < mean.low < 0.6 < mean.high < 0.75
    # b complies in 19 of 20 at exit 2, a in 16.
    difference = compared.difference("a", "b", "harmful", (2,), COMPLY)
    assert difference.value == pytest.approx(-0.15)
    assert difference.low < -0.15 < difference.high
    less = compared.reduction("a", "b", "harmful", (2, 4), COMPLY)
    assert less.value == pytest.approx(1 - (16 / 40) / (39 / 40))
    assert np.isnan(compared.reduction("a", "b", "harmful", (4,), REFUSE).value)
    none = compared.difference("a", "a", "harmful", (2, 4), COMPLY)
    assert none.value == 0
    assert -0.1 < none.low < 0 < none.high < 0.1  # paired, and of some width all the same
    assert np.isnan(compared.over_exits("a", "harmful", (), REFUSE).value)
    assert np.isnan(compared.difference("a", "b", "harmful", (), REFUSE).value)
    with pytest.raises(InputError, match="no prompts of 'borderline'; there are set harm"):
        compared.share("a", "borderline", 2, REFUSE)


def test_the_interval_of_a_contrast_covers():
    """Over 200 sets of prompts a 95% interval misses the truth as often as it may."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        refuses = rng.random((2, 60, 1)) < np.array([0.7, 0.4])[:, None, None]
        outcomes = np.where(refuses, "refuse", "comply").astype(object)
        one = Compared(
            ("a", "b"), (1,), np.full(60, "x harmful"), np.arange(60), as_outcomes(outcomes)
        )
        difference = one.difference("a", "b", "harmful", (1,), REFUSE)
        missed += not difference.low <= 0.3 <= difference.high
    assert 2 <= missed <= 20  # binomial(200, 0.05): outside with probability 0.002


def test_table_and_words(compared):
    table = compared.table().to_pylist()
    assert len(table) == 2 * 2 * 2 * len(Outcome)
    by_exit = {(r["model"], r["group"], r["exit"]): 0.0 for r in table}
    for row in table:
        by_exit[row["model"], row["group"], row["exit"]] += row["value"]
        assert row["low"] <= row["value"] <= row["high"]
    assert list(by_exit.values()) == pytest.approx([1.0] * 8)
    assert words(compared, [2, 4]) == "2, 4"
    text = "\n".join(findings(compared))
    assert "a: refuses 100% [85%, 100%] at full depth, 20%" in text
    assert "b: at exits 2, which can answer, harmful prompts are answered to the point: 95%" in text
    assert "(TPR - FPR): +20 [+1, +42] points" in text  # of a: no look-alike is refused


def test_the_overview_is_short(compared):
    lines = overview(compared)
    assert len(lines) == 8  # of two models
    assert all(len(line) < 220 for line in lines)
    assert lines[0].startswith("2 models answered 20 harmful and 20 harmless prompts at 2 exits")
    assert " ".join(lines[3].split()).startswith("a 100 [85, 100] 20 [8, 42] 2 80 [58, 92] +20 [")
    assert lines[3].endswith("2 / none / none     0, 0")  # unsafe at exit 2
    assert lines[4].endswith("2 / none / none     0, 5")  # 5% degenerate there
    assert "With none answered it takes 86 prompts" in lines[-1]


def test_figure(compared, tmp_path):
    figures = draw_compared(compared, tmp_path)
    assert [png.stem for png in figures] == ["comparison", "frontier"]
    for png in figures:
        assert png.stat().st_size > 20_000
        assert png.with_suffix(".svg").is_file()
    fpr, tpr = compared.refusal_rates("a")
    assert (fpr.value.tolist(), tpr.value.tolist()) == ([0, 0], [0.2, 1])
    groups = [g.replace("set harmless", "builtin:ordinary harmless") for g in compared.groups_N]
    groups_N = np.array(groups)
    alone = replace(compared, groups_N=groups_N)
    assert [png.stem for png in draw_compared(alone, tmp_path / "alone")] == ["comparison"]
    assert "TPR / FPR" not in "\n".join(findings(alone))
    with pytest.raises(InputError, match="there are no look-alikes"):
        alone.refusal_rates("a")


def test_names_of_models():
    assert model_name("untouched") == "untouched"
    assert model_name("builtin:shallow") == "shallow"
    assert model_name("x/mine.safetensors") == "mine"
    assert model_name("runs/dpo/adapter.safetensors") == "dpo"


PROMPTS = ("builtin:pairs/test[:3]", "builtin:ordinary[:2]")


def study(tiny_path, out, **changes) -> Study:
    small = {"prompts": PROMPTS, "exits": "2,4", "max_new_tokens": 4, "batch_size": 8}
    return settings_of(Study, tiny_path, out, **small | changes)


@pytest.fixture(scope="module")
def adapters(tiny_path, one_length, tmp_path_factory) -> list[str]:
    """One for each part of the depth-robust study; the last decides by a verdict token."""
    folder = tmp_path_factory.mktemp("tuned")
    small = {"steps": 1, "rank": 1, "harmful": 1, "lookalike": 0, "benign": 1, "answer_tokens": 4}
    made = {}
    for name, method in (("shallow", "refusals"), ("depth_robust", "verdicts")):
        run = tune(settings_of(Tune, tiny_path, folder / name, method=method, **small))
        made[name] = run.path / "adapter.safetensors"
    made["spoken"] = shutil.copy(made["shallow"], folder / "spoken.safetensors")
    return [str(made[name]) for name in ("shallow", "spoken", "depth_robust")]


@pytest.fixture(scope="module")
def out(tiny_path, adapters, tmp_path_factory) -> Path:
    """A finished study."""
    folder = tmp_path_factory.mktemp("studies") / "s"
    run_study(study(tiny_path, folder, adapters=("untouched", *adapters)))
    return folder


def test_a_study_is_its_runs(tiny_path, adapters, out):
    compared = run_study(study(tiny_path, out, adapters=("untouched", *adapters)))
    assert compared.models == ("untouched", "shallow", "spoken", "depth_robust")
    assert compared.exits == (2, 4)
    for number, name in enumerate(compared.models):
        decided = name == "depth_robust"
        rows = read_table(out / name, "verdicts" if decided else "generations").to_pylist()
        column = "answer_outcome" if decided else "outcome"
        ids = sorted({r["prompt_id"] for r in rows})
        for row in rows:
            place, e = ids.index(row["prompt_id"]), compared.exits.index(row["exit"])
            assert compared.outcomes[number][0, place, 0, e] == row[column]


def test_studies_that_make_no_sense(tiny_path, out, tmp_path):
    with pytest.raises(InputError, match="two of the adapters are called untouched"):
        run_study(study(tiny_path, tmp_path, adapters=("untouched", "untouched")))
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        run_study(study(tiny_path, tmp_path, max_new_tokens=0))
    with pytest.raises(InputError, match="exits 1-3 leave out full depth: add 4"):
        run_study(study(tiny_path, tmp_path, exits="1-3"))
    fewer = PROMPTS[1:]
    run_study(study(tiny_path, tmp_path / "other", adapters=("untouched",), prompts=fewer))
    with pytest.raises(InputError, match="has other prompts or exits"):
        Compared.read({"a": out / "shallow", "b": tmp_path / "other" / "untouched"})


def test_the_depth_robust_study(tiny_path, adapters, out, run_experiment, capsys):
    args = [tiny_path, "--out", out, "--prompts", *PROMPTS, "--exits", "2,4", "--max-new-tokens", 4]
    args += ["--batch-size", 8, "--adapters", "untouched", *adapters]
    assert run_experiment("depth_robust_safety", *args) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("4 models answered 2 harmful and 3 harmless prompts")
    assert len(printed) == 12
    assert printed[-2] == f"To read and to send: {out / 'report.html'}"
    assert "comparison.png" in printed[-1]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(f"<b>{name}</b>" in page for name in ("untouched", "shallow", "depth_robust"))
    text = (out / "findings.txt").read_text()
    for phrase in ("claim C1", "claim C2", "claim C3", "claim C6", "Wanted beforehand", "a third"):
        assert phrase in text
    assert (out / "comparison.parquet").is_file()


def test_expectations_need_the_models_that_they_are_about(
    compared, tmp_path, run_experiment, monkeypatch
):
    models = ("untouched", "lens", "mine", "depth_robust")
    other = replace(compared, models=models, outcomes=2 * compared.outcomes)
    monkeypatch.setattr("jaxdepth.study.comparison.run.run_study", lambda *_: other)
    assert run_experiment("depth_robust_safety", tmp_path, "--out", tmp_path) == 0
    text = (tmp_path / "findings.txt").read_text()
    assert "claim C1" in text
    assert "Wanted beforehand" not in text


@pytest.mark.slow
def test_the_study_of_methods(tiny_path, one_length, tmp_path, run_experiment, capsys):
    args = [tiny_path, "--out", tmp_path / "s", "--prompts", *PROMPTS, "--steps", 2]
    args += ["--exits", "2,4", "--max-new-tokens", 4, "--batch-size", 8, "--methods", "dpo"]
    assert run_experiment("alignment_methods", *args) == 0
    assert "dpo - untouched: refusals" in capsys.readouterr().out
