"""The study of exit policies: calibration and acceptance by hand, and the whole of it once."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxdepth import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.study.policies import figures as policy_figures
from jaxdepth.study.policies.calibration import calibrate, calibration_findings
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rates import RuleMeans
from jaxdepth.study.policies.speculation import (
    acceptance_findings,
    acceptance_rates,
)
from jaxdepth.study.policies.tables import SPECULATION
from jaxdepth.study.run_directory import Run, read_frame

pytestmark = pytest.mark.usefixtures("quick_programs")


def rule_means(agreement_NR, layers_NR) -> RuleMeans:
    """Made-up prompts under thresholds .9, .5 and .1 of one policy, and a fixed exit."""
    N = len(agreement_NR)
    rules = [(f"top1 {t}", "top1", t) for t in (0.5, 0.9, 0.1)] + [("fixed 30", "fixed", 30.0)]
    rules = pd.DataFrame(rules, columns=["rule", "policy", "threshold"])
    values = {"agreement": agreement_NR, "mean_layers": layers_NR}
    ids = np.array([f"p{n}" for n in range(N)])
    return RuleMeans(rules, ids, np.full(N, "harmful"), ids, values, 1)


def test_thresholds_are_chosen_on_validation_and_evaluated_on_the_rest():
    # Threshold .9 agrees always at 28 layers, .5 in 90% at 24, .1 in 30% at 18.
    agreement = np.tile([0.9, 1.0, 0.3, 1.0], (400, 1))
    layers = np.tile([24.0, 28.0, 18.0, 30.0], (400, 1))
    validation = rule_means(agreement, layers)
    held_out = rule_means(agreement[:60] * [0.8, 1, 1, 1], layers[:60] + 1)
    rows = calibrate(validation, held_out, [27.0, 19.0], risk=0.2, error=0.05)
    deep, shallow, risk = rows.to_dict("records")
    assert (deep["threshold"], deep["on_validation"], deep["held_out"]) == (0.9, 28, 29)
    assert (shallow["threshold"], shallow["held_out"]) == (0.1, 19)
    assert np.isnan(shallow["low"])  # a depth that is the same of all prompts has no interval
    assert (risk["aim"], risk["threshold"]) == ("risk", 0.5)
    assert risk["on_validation"] == pytest.approx(0.1)
    assert risk["held_out"] == pytest.approx(0.28)  # others than those it was certified on
    assert (risk["layers"], risk["n_validation"], risk["n_held_out"]) == (25, 400, 60)
    few = rule_means(agreement[:5], layers[:5])
    uncertified = calibrate(few, held_out, [], risk=0.05, error=0.05)
    assert uncertified["threshold"].isna().tolist() == [True]
    lines = calibration_findings(pd.concat([rows, uncertified]))
    assert lines[0].endswith("on held-out prompts 29.0 (n=60: no interval).")
    assert lines[2].endswith("28% [27%, 32%] at 25.0 layers.")  # the rule of three for 60 alike
    assert "no threshold of the grid is certified for a risk of 5%" in lines[3]


def test_guarded_exits_are_calibrated_apart():
    """Guards of one policy with the same threshold: each exit is a family of its own."""
    rules = [(f"guarded content@1/{d} {t}", "guarded", t) for d in (2, 3) for t in (0.5, 0.9)]
    means = rule_means(np.ones((60, 4)), np.tile([2.5, 3.5, 3.0, 4.0], (60, 1)))
    means = replace(means, rules=pd.DataFrame(rules, columns=means.rules.columns))
    chosen = calibrate(means, means, [3.0], risk=0.2, error=0.05).set_index(["policy", "aim"])
    assert chosen["threshold"].to_dict() == {
        ("guarded content@1/2", "mean layers"): 0.9,
        ("guarded content@1/2", "risk"): 0.5,
        ("guarded content@1/3", "mean layers"): 0.5,
        ("guarded content@1/3", "risk"): 0.5,
    }


def test_acceptance_by_hand(tmp_path):
    run = Run.open(tmp_path / "run", {}, {})
    columns = ("prompt_id", "draft_depth", "n_tokens", "rounds", "drafted", "accepted", "passes")
    answers = [
        ("a", 10, 11, 4, 12, 6, 200),
        ("b", 10, 6, 2, 8, 4, 100),
        ("c", 10, 1, 0, 0, 0, 0),  # it had nothing to draft
        ("d", 10, 9, 3, 8, 5, 120),
        ("x", 10, 9, 3, 8, 0, 999),  # not among the prompts
    ]
    rows = [dict(zip(columns, line, strict=True)) for line in answers]
    run.write_table(SPECULATION.name, SPECULATION.from_rows(rows))
    labels = ["harmful", "harmful", "harmful", "harmless"]
    prompts = pd.DataFrame({"prompt_id": [*"abcd"], "label": labels, "pair_id": None})
    acceptance = acceptance_rates(run, prompts, layers=30)
    rates = acceptance.set_index(["label", "metric"])
    assert rates["value"]["harmful", "accepted"] == pytest.approx(10 / 20)
    assert rates["value"]["harmless", "accepted"] == pytest.approx(5 / 8)
    passes = rates.loc["harmful", "passes"]
    assert passes["value"] == pytest.approx(300 / (30 * 15))
    assert passes["n"] == 2
    assert np.isnan([passes["low"], passes["band_high"]]).all()  # of two prompts
    assert "at best 0.67 (n=2: no interval) of full" in acceptance_findings(acceptance)[0]


def test_the_study(tiny_path, tmp_path, run_experiment, capsys, monkeypatch):
    mapped = []

    def draw(run_path, only=None):
        mapped.append(only)
        return draw_policies(run_path, only)

    monkeypatch.setattr(policy_figures, "draw_policies", draw)
    args = [tiny_path, "--out", tmp_path / "s", "--exits", "2-4", "--max-new-tokens", 4]
    args += ["--validation", "builtin:pairs/validation[:6]", "--prompts", "builtin:pairs/test[:4]"]
    args += ["--policy", "classifier=0.2,0.9", "fixed=2,3", "--draft-depths", "2-3"]
    with pytest.raises(InputError, match="ambiguous with two sets of prompts"):
        run_experiment("static_or_dynamic", *args, "--limit", 2)
    assert run_experiment("static_or_dynamic", *args) == 0
    printed = capsys.readouterr().out
    for line in ("classifier for mean layers 3.6", "classifier", "Self-speculation on harmful"):
        assert line in printed
    assert len(read_frame(tmp_path / "s", "prompts")) == 10
    assert set(read_frame(tmp_path / "s", "policies")["n"]) == {2}  # the held-out ones only
    held_out = {p.prompt_id for p in read_prompts(["builtin:pairs/test[:4]"])}
    assert [set(only) for only in mapped] == [held_out]
    assert (tmp_path / "s_classifier.safetensors").is_file()
