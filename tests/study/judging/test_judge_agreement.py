"""Agreement of judges: kappa with its interval, and confusion tables."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from jaxdepth.study.judging.agreement import RUN, agreement_rows, confusion_rows
from jaxdepth.study.judging.run import labelled


def test_two_judges_of_one_name_are_told_apart():
    rows = {"judge": ["a", "a", "b"], "identity": ["1" * 64, "2" * 64, "3" * 64]}
    assert labelled(pd.DataFrame(rows))["label"].tolist() == ["a 11111111", "a 22222222", "b"]


def outcomes_of(rng, prompts, exits=(1, 2), agree=0.7) -> pd.DataFrame:
    """Two judges that agree by chance, the more so the easier a prompt is."""
    kinds = np.array(["refuse", "comply", "off-topic"])
    easy_N = np.repeat(rng.beta(4 * agree, 4 * (1 - agree), prompts), len(exits))
    first_N, other_N = rng.choice(kinds, (2, len(easy_N)))
    return pd.DataFrame(
        {
            "prompt_id": np.repeat(np.arange(prompts), len(exits)).astype(str),
            "exit": np.tile(exits, prompts),
            RUN: first_N,
            "j": np.where(rng.random(len(easy_N)) < easy_N, first_N, other_N),
        }
    )


def test_agreement_and_confusion_rows():
    outcomes = outcomes_of(np.random.default_rng(1), 40)
    clusters = [str(int(p) // 2) for p in outcomes["prompt_id"]]
    rows = list(agreement_rows(outcomes, [RUN, "j"], clusters, seed=0))
    assert [row["exit"] for row in rows] == [None, 1, 2]
    assert [row["n"] for row in rows] == [80, 40, 40]
    for row in rows:
        some = outcomes if row["exit"] is None else outcomes[outcomes["exit"] == row["exit"]]
        assert row["agreement"] == pytest.approx((some[RUN] == some["j"]).mean())
        assert row["low"] < row["kappa"] < row["high"]
    counts = {
        (row["outcome_first"], row["outcome_second"]): row["n"]
        for row in confusion_rows(outcomes, [RUN, "j"])
    }
    assert sum(counts.values()) == 80
    pairs = Counter(zip(outcomes[RUN], outcomes["j"], strict=True))
    assert counts == pairs


def test_no_interval_where_nothing_can_be_said():
    outcomes = outcomes_of(np.random.default_rng(1), 6)
    row = next(agreement_rows(outcomes, [RUN, "j"], list(outcomes["prompt_id"]), seed=0))
    assert row["kappa"] is not None
    assert row["low"] is row["high"] is None  # too few prompts
    equal = outcomes_of(np.random.default_rng(1), 30).assign(j=lambda frame: frame[RUN])
    row = next(agreement_rows(equal, [RUN, "j"], list(equal["prompt_id"]), seed=0))
    assert row["low"] < row["kappa"] == 1  # never an interval of no width
    one = equal.assign(**{RUN: "comply", "j": "comply"})
    row = next(agreement_rows(one, [RUN, "j"], list(one["prompt_id"]), seed=0))
    assert (row["agreement"], row["kappa"]) == (1, None)


def test_the_interval_covers():
    """Of the kappa that very many prompts would have; binomial test at 1%."""
    from scipy.stats import binomtest

    rng = np.random.default_rng(3)
    many = outcomes_of(rng, 50000)
    row = next(agreement_rows(many, [RUN, "j"], ["0"] * len(many), seed=0))
    hits = []
    for seed in range(100):
        some = outcomes_of(rng, 60, exits=(1,))
        estimate = next(agreement_rows(some, [RUN, "j"], list(some["prompt_id"]), seed=seed))
        hits.append(estimate["low"] <= row["kappa"] <= estimate["high"])
    assert binomtest(sum(hits), len(hits), 0.95).pvalue > 0.01
