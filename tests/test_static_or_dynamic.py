"""The study of exit policies: calibration and acceptance by hand, and the whole of it once."""

import numpy as np
import pyarrow as pa
import pytest

from jaxdepth import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.study.policies import figures as policy_figures
from jaxdepth.study.policies.calibration import calibration_findings, calibration_rows
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rates import RuleRun
from jaxdepth.study.policies.speculation import (
    SPECULATION,
    SPECULATION_SCHEMA,
    acceptance_findings,
    acceptance_rows,
)
from jaxdepth.study.run_directory import Run, read_table

pytestmark = pytest.mark.usefixtures("quick_programs")


def rule_run(agreement_NR, layers_NR) -> RuleRun:
    """Made-up prompts under thresholds .9, .5 and .1 of one policy, and a fixed exit."""
    N = len(agreement_NR)
    rules = [(f"top1 {t}", "top1", t) for t in (0.5, 0.9, 0.1)] + [("fixed 30", "fixed", 30.0)]
    values = {"agreement": agreement_NR, "mean_layers": layers_NR}
    ids = [f"p{n}" for n in range(N)]
    labels = np.array(["harmful"] * N)
    return RuleRun(rules, ids, labels, ids, np.array(["s"] * N), values, 1)


def test_thresholds_are_chosen_on_validation_and_told_on_the_rest():
    # Threshold .9 agrees always at 28 layers, .5 in 90% at 24, .1 in 30% at 18.
    agreement = np.tile([0.9, 1.0, 0.3, 1.0], (400, 1))
    layers = np.tile([24.0, 28.0, 18.0, 30.0], (400, 1))
    validation = rule_run(agreement, layers)
    held_out = rule_run(agreement[:60] * [0.8, 1, 1, 1], layers[:60] + 1)
    rows = calibration_rows(validation, held_out, [27.0, 19.0], risk=0.2, error=0.05)
    deep, shallow, risk = rows
    assert (deep["threshold"], deep["on_validation"], deep["held_out"]) == (0.9, 28, 29)
    assert (shallow["threshold"], shallow["held_out"], shallow["low"]) == (0.1, 19, 19)
    assert (risk["aim"], risk["threshold"]) == ("risk", 0.5)
    assert risk["on_validation"] == pytest.approx(0.1)
    assert risk["held_out"] == pytest.approx(0.28)  # others than those it was certified on
    assert (risk["layers"], risk["n_validation"], risk["n_held_out"]) == (25, 400, 60)
    few = rule_run(agreement[:5], layers[:5])
    (nothing,) = calibration_rows(few, held_out, [], risk=0.05, error=0.05)
    assert nothing.get("threshold") is None
    said = calibration_findings([deep, risk, nothing | {"threshold": None}])
    assert said[0].endswith("on held-out prompts 29.0 [29.0, 29.0].")
    assert said[1].endswith("28% [28%, 28%] at 25.0 layers.")
    assert "no threshold of the grid is certified for a risk of 5%" in said[2]


def test_acceptance_by_hand(tmp_path):
    run = Run.open(tmp_path / "run", {}, {})
    columns = ("prompt_id", "draft_depth", "n_tokens", "rounds", "drafted", "accepted", "passes")
    lines = [
        ("a", 10, 11, 4, 12, 6, 200),
        ("b", 10, 6, 2, 8, 4, 100),
        ("c", 10, 1, 0, 0, 0, 0),  # it had nothing to draft
        ("d", 10, 9, 3, 8, 5, 120),
        ("x", 10, 9, 3, 8, 0, 999),  # not among the prompts
    ]
    rows = [dict(zip(columns, line, strict=True)) for line in lines]
    run.write_table(SPECULATION, pa.Table.from_pylist(rows, SPECULATION_SCHEMA))
    prompts = [
        {"prompt_id": i, "label": label, "pair_id": None}
        for i, label in zip("abcd", ("harmful", "harmful", "harmful", "harmless"), strict=True)
    ]
    found = {(r["label"], r["metric"]): r for r in acceptance_rows(run, prompts, layers=30)}
    assert found["harmful", "accepted"]["value"] == pytest.approx(10 / 20)
    assert found["harmful", "passes"]["value"] == pytest.approx(300 / (30 * 15))
    assert found["harmful", "passes"]["n"] == 2
    assert found["harmless", "accepted"]["value"] == pytest.approx(5 / 8)
    low, high = (found["harmful", "passes"][k] for k in ("low", "high"))
    assert (low, high) == pytest.approx((100 / 150, 200 / 300))  # both prompts have the same share
    assert "0.67" in acceptance_findings(list(found.values()))[0]


def test_the_study(tiny_path, tmp_path, run_experiment, capsys, monkeypatch):
    mapped = []

    def draw(run_path, only=None):
        mapped.append(only)
        return draw_policies(run_path, only)

    monkeypatch.setattr(policy_figures, "draw_policies", draw)
    args = [tiny_path, "--out", tmp_path / "s", "--exits", "2-4", "--max-new-tokens", 4]
    args += ["--validation", "builtin:pairs/validation[:6]", "--prompts", "builtin:pairs/test[:4]"]
    args += ["--policy", "classifier=0.2,0.9", "fixed=2,3", "--draft-depths", "2-3"]
    with pytest.raises(InputError, match="of two sets of prompts take the first N by"):
        run_experiment("static_or_dynamic", *args, "--limit", 2)
    assert run_experiment("static_or_dynamic", *args) == 0
    said = capsys.readouterr().out
    for line in ("classifier for mean layers 3.6", "classifier", "Self-speculation on harmful"):
        assert line in said
    told = {p["prompt_id"]: p["source"] for p in read_table(tmp_path / "s", "prompts").to_pylist()}
    assert len(told) == 10
    rates = read_table(tmp_path / "s", "policies").to_pylist()
    assert {r["n"] for r in rates} == {2}  # the held-out ones only
    held_out = {p.prompt_id for p in read_prompts(["builtin:pairs/test[:4]"])}
    assert [set(only) for only in mapped] == [held_out]
    assert (tmp_path / "s_classifier.safetensors").is_file()
