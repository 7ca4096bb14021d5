"""Rules that are chosen on some prompts: what is reported of them, by simulation and by hand."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from jaxdepth.study.policies.choice import ANY, choose_rules, split_pairs
from jaxdepth.study.policies.rates import RuleMeans, match_depths

TRIALS, RULES, PAIRS = 50, 12, 40


def rule_means(refuse_NR, ids=None) -> RuleMeans:
    """Made-up prompts in pairs under 6 + 6 rules of two policies at 15 layers, and two exits."""
    N = len(refuse_NR)
    policies = ["margin"] * (RULES // 2) + ["top1"] * (RULES // 2) + ["fixed"] * 2
    thresholds = [*np.linspace(0.1, 0.9, RULES // 2)] * 2 + [10.0, 20.0]
    names = [f"{p} {t:g}" for p, t in zip(policies, thresholds, strict=True)]
    rules = pd.DataFrame({"rule": names, "policy": policies, "threshold": thresholds})
    layers_NR = np.tile([15.0] * RULES + [10.0, 20.0], (N, 1))
    values = {"refuse": refuse_NR, "mean_layers": layers_NR}
    ids = np.array([f"p{n}" for n in range(N)]) if ids is None else ids
    pairs = np.array([f"pair {n // 2}" for n in range(N)])
    return RuleMeans(rules, ids, np.full(N, "harmful"), pairs, values, 1)


@cache
def outcomes_without_any_difference() -> list[tuple[pd.Series, pd.DataFrame]]:
    """The chosen rule, and all matched rules, of runs in which rules refuse alike."""
    rng = np.random.default_rng(0)
    results = []
    for _ in range(TRIALS):
        # A prompt has a luck of its own, which all rules share, and one with each rule.
        luck_NR = rng.random((2 * PAIRS, RULES + 2)) + rng.random((2 * PAIRS, 1))
        means = rule_means((luck_NR < 1).astype(float))
        chosen = choose_rules(*split_pairs(means)).set_index(["policy", "metric"])
        matched = match_depths(means)
        results.append((chosen.loc[ANY, "refuse"], matched[matched["metric"] == "refuse"]))
    return results


def may_be(count: int, rate: float, alternative: str) -> bool:
    return binomtest(count, TRIALS, rate, alternative=alternative).pvalue > 0.01


def test_what_is_reported_of_a_chosen_rule_covers_no_difference():
    chosen = [row for row, _ in outcomes_without_any_difference()]
    covers = sum(row["low"] <= 0 <= row["high"] for row in chosen)
    assert may_be(covers, 0.95, "less")
    assert abs(np.mean([row["difference"] * np.sign(row["on_choosing"]) for row in chosen])) < 0.02


def test_the_largest_difference_on_the_same_prompts_fails_the_same_simulation():
    covers, sizes = 0, []
    for _, matched in outcomes_without_any_difference():
        largest = matched.loc[matched["difference"].abs().idxmax()]
        covers += largest["low"] <= 0 <= largest["high"]
        sizes.append(abs(largest["difference"]))
    assert not may_be(covers, 0.95, "less")
    assert np.mean(sizes) > 0.05


def test_the_band_over_all_rules_names_no_rule():
    named = sum(
        ((matched["band_low"] > 0) | (matched["band_high"] < 0)).any()
        for _, matched in outcomes_without_any_difference()
    )
    assert may_be(named, 0.05, "greater")
    pointwise = sum(
        ((matched["low"] > 0) | (matched["high"] < 0)).any()
        for _, matched in outcomes_without_any_difference()
    )
    assert not may_be(pointwise, 0.05, "greater")


def test_a_rule_that_differs_is_chosen_and_reported():
    rng = np.random.default_rng(1)
    refuse_NR = (rng.random((2 * PAIRS, RULES + 2)) < 0.5).astype(float)
    refuse_NR[:, 3] = rng.random(2 * PAIRS) < 0.05
    chosen = choose_rules(*split_pairs(rule_means(refuse_NR))).set_index(["policy", "metric"])
    best = chosen.loc[ANY, "refuse"]
    assert best["rule"] == chosen.loc["margin", "refuse"]["rule"] == "margin 0.58"
    assert best["high"] < 0
    assert (best["rules"], chosen.loc["top1", "refuse"]["rules"]) == (RULES, RULES // 2)
    assert (best["below"], best["above"], best["mean_layers"]) == (10, 20, 15)


def test_no_pair_is_on_both_sides():
    means = rule_means(np.zeros((2 * PAIRS, RULES + 2)))
    choosing, reporting = split_pairs(means)
    assert not set(choosing.clusters_N) & set(reporting.clusters_N)
    assert len(choosing.ids_N) + len(reporting.ids_N) == 2 * PAIRS
    assert 0.3 < len(choosing.ids_N) / (2 * PAIRS) < 0.7
    row = choose_rules(choosing, reporting).iloc[0]
    assert (row["n_choosing"], row["n"]) == (len(choosing.ids_N), len(reporting.ids_N))


@pytest.mark.parametrize("side", [0, 1])
def test_without_prompts_on_one_side_nothing_is_chosen(side):
    means = rule_means(np.zeros((4, RULES + 2)))
    halves = [means, means]
    halves[side] = means.select(np.zeros(4, bool))
    assert choose_rules(*halves).empty
