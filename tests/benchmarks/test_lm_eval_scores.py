"""Scores by exit from what lm-eval says of documents, with known answers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jaxdepth.benchmarks.summary import findings

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
N = 40


def result(depth: int, name: str, metric: str, values: list, value: float, **more) -> dict:
    """What is read of lm-eval's results of an exit."""
    samples = [
        {"filter": "none", metric: v, "target": 0, "arguments": [("a", "b")] * 4} for v in values
    ]
    return {
        "results": {name: {"alias": name, "sample_len": len(values), f"{metric},none": value}},
        "higher_is_better": {name: {metric: True}},
        "samples": {name: samples},
        "config": {"depth": depth},
    } | more


def task(output_type: str, metric: str, aggregation) -> SimpleNamespace:
    return SimpleNamespace(
        config=SimpleNamespace(task="t"),
        OUTPUT_TYPE=output_type,
        aggregation=lambda: {metric: aggregation},
    )


def test_differences_are_paired_by_document():
    from lm_eval.api.metrics import mean

    from jaxdepth.benchmarks.lm_eval.scores import score_rows
    from jaxdepth.stats.intervals import wilson

    full = [1] * 30 + [0] * 10
    early = [0] * 3 + full[3:]  # wrong on three more documents, and on all that full depth is
    results = [result(9, "t", "acc", v, float(np.mean(v))) for v in (early, full)]
    tasks = {"t": task("multiple_choice", "acc", mean)}
    first, last = score_rows([5, 9], results, tasks)
    assert (first["low"], first["high"]) == wilson(27, N)
    assert first["minus_full"] == pytest.approx(-3 / N)
    # Of two independent samples it would be wider than 0.3.
    assert -0.2 < first["minus_full_low"] < -3 / N < first["minus_full_high"] <= 0
    assert first["chance"] == 0.25
    assert "minus_full" not in last
    (alone,) = score_rows([5], results[:1], tasks)
    assert "minus_full" not in alone


def test_perplexities_have_an_interval_of_their_own():
    from lm_eval.api.metrics import weighted_perplexity

    from jaxdepth.benchmarks.lm_eval.scores import score_rows

    rng = np.random.default_rng(0)
    values = [(-float(x) * 10, 10) for x in rng.uniform(1, 3, N)]
    value = weighted_perplexity(values)
    tasks = {"t": task("loglikelihood_rolling", "word_perplexity", weighted_perplexity)}
    results = [result(9, "t", "word_perplexity", values, value)]
    (row,) = score_rows([9], results, tasks)
    assert row["value"] == value
    error = 1.96 * np.std([v / 10 for v, _ in values]) / np.sqrt(N)
    bounds = value * np.exp([-error, error])
    assert (row["low"], row["high"]) == pytest.approx(tuple(bounds), rel=0.03)


def test_other_statistics_and_groups():
    from jaxdepth.benchmarks.lm_eval.scores import score_rows

    of_f1 = [result(9, "t", "f1", [(0, 1)] * N, 0.5)]
    (row,) = score_rows([9], of_f1, {"t": task("multiple_choice", "f1", max)})
    assert "low" not in row
    of_group = result(9, "group", "acc", [], 0.5)
    of_group["results"]["group"]["acc_stderr,none"] = 0.1
    (row,) = score_rows([9], [of_group], {})
    assert row["is_group"]
    assert (row["low"], row["high"]) == pytest.approx((0.304, 0.696), abs=1e-3)


def test_worse_is_higher_for_a_perplexity():
    columns = {
        "higher_is_better": [False] * 3,
        "minus_full": [9.0, -1.0, np.nan],
        "minus_full_low": [5.0, -2.0, np.nan],
        "minus_full_high": [12.0, -0.5, np.nan],
        "chance": [np.nan] * 3,
    }
    by_exit = pd.DataFrame(columns, index=[1, 2, 3])
    assert findings("perplexity", by_exit)[0].endswith("at exits 1.")
    by_exit["higher_is_better"] = True
    assert findings("acc", by_exit)[0].endswith("at exits 2.")
