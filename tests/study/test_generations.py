"""The answers of every exit in tables: texts, outcomes, rates and their intervals."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest
from studies import settings_of

import jaxdepth
from jaxdepth.prompts.batches import limit_prompts
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.detector import held_out_counts
from jaxdepth.refusal.outcome import Outcome, classify_texts
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar
from jaxdepth.stats.intervals import holm, wilson
from jaxdepth.study.answers import agreement
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.outcomes import read_outcomes
from jaxdepth.study.sweep.rates import Rates, outcome_frames, paired_frame, write_rates
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.sweep.tables import PAIRED
from jaxdepth.weights.checkpoint import end_tokens

pytestmark = pytest.mark.usefixtures("quick_programs")

T = 6


def sweep_small(tiny_path, out, **changes):
    small = {"limit": 4, "batch_size": 4, "max_new_tokens": T}
    return sweep(settings_of(Sweep, tiny_path, out, **small | changes))


@pytest.fixture(scope="module")
def run(tiny_path, tmp_path_factory):
    return sweep_small(tiny_path, tmp_path_factory.mktemp("runs") / "run")


def test_texts_equal_those_of_each_exit_alone(tiny_path, run):
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder, stops = PromptEncoder(tokenizer), end_tokens(tiny_path, tokenizer)
    assert tokenizer.eos_token_id in stops
    rows = {(r["prompt_id"], r["exit"]): r for r in read_table(run.path, "generations").to_pylist()}
    prompts = limit_prompts(read_prompts(["builtin:pairs/test"]), 4)
    assert len(rows) == len(prompts) * 4
    for prompt in prompts:
        tokens = encoder.encode(prompt.text)
        ids = np.zeros((1, 64), np.int64)  # one shape, one program for each exit
        ids[0, : len(tokens)] = tokens
        lengths = np.array([len(tokens)])
        full = None
        for exit_layer in (4, 3, 2, 1):
            generation = jaxdepth.generate(model, ids, lengths, [exit_layer], T, stop_tokens=stops)
            answer = generation.tokens[0, 0, : generation.lengths[0, 0]].tolist()
            full = answer if exit_layer == 4 else full
            row = rows[prompt.prompt_id, exit_layer]
            assert row["n_tokens"] == len(answer)
            assert row["text"] == tokenizer.decode(answer, skip_special_tokens=True)
            assert row["ended"] == ("eos" if answer[-1] in stops else "length")
            assert row["agreement"] == pytest.approx(agreement(answer, full))
            judged = classify_texts([row["text"]], [prompt.text])[0]
            assert row["refusal_score"] == pytest.approx(judged.refusal_score, abs=1e-6)
            assert row["outcome"] in list(Outcome)
            assert 0 <= row["score"] <= 1


def test_batches_change_nothing(tiny_path, run, tmp_path):
    other = sweep_small(tiny_path, tmp_path / "run", batch_size=1)

    def rows(path):
        table = read_table(path, "generations").to_pylist()
        return {(r["prompt_id"], r["exit"]): (r["text"], r["outcome"]) for r in table}

    assert rows(other.path) == rows(run.path)


def test_samples_differ(tiny_path, tmp_path, run):
    texts = read_table(run.path, "generations")["text"].to_pylist()
    letter = Counter("".join(texts)).most_common(1)[0][0]
    sampled = sweep_small(
        tiny_path,
        tmp_path / "run",
        samples=3,
        temperature=1.0,
        stop=(letter,),
        exits="2",
        generate_limit=2,
    )
    rows = read_table(sampled.path, "generations").to_pylist()
    assert len(rows) == 4 * 3  # two pairs, one exit, three samples
    assert {r["sample"] for r in rows} == {0, 1, 2}
    assert "stop" in {r["ended"] for r in rows}
    assert len({(r["prompt_id"], r["text"]) for r in rows}) > 4


def test_texts_end_before_a_stop_string(tiny_path, tmp_path, run, capsys):
    texts = read_table(run.path, "generations")["text"].to_pylist()
    letter = Counter("".join(texts)).most_common(1)[0][0]
    truncated = sweep_small(tiny_path, tmp_path / "run", stop=(letter, "\\n"))
    rows = read_table(truncated.path, "generations").to_pylist()
    for row, text in zip(rows, texts, strict=True):
        assert row["text"] == text.split(letter)[0]
        assert (row["ended"] == "stop") == (letter in text)
        assert row["stop"] == (letter if letter in text else None)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no answer was ended by the stop text '\\\\n'" in line
    assert "for a line break write $'\\n' in the shell" in line
    assert_counted_up_to(letter, tiny_path, rows)


def assert_counted_up_to(letter, tiny_path, rows):
    """Tokens and agreement are those of answers that end with the token that has the letter."""
    model, tokenizer = jaxdepth.load(tiny_path)
    stops = end_tokens(tiny_path, tokenizer)
    encoder, by_key = PromptEncoder(tokenizer), {(r["prompt_id"], r["exit"]): r for r in rows}
    counts = set()
    for prompt in limit_prompts(read_prompts(["builtin:pairs/test"]), 4):
        ids, length = np.zeros((1, 64), np.int64), len(encoder.encode(prompt.text))
        ids[0, :length] = encoder.encode(prompt.text)
        made = jaxdepth.generate(model, ids, np.array([length]), [1, 2, 3, 4], T, stop_tokens=stops)
        kept = []
        for e in range(4):
            tokens = made.tokens[0, e, : made.lengths[0, e]].tolist()
            has_it = [
                n
                for n in range(len(tokens))
                if letter in tokenizer.decode(tokens[: n + 1], skip_special_tokens=True)
            ]
            kept.append(tokens[: has_it[0] + 1] if has_it else tokens)
        for e in range(4):
            row = by_key[prompt.prompt_id, e + 1]
            assert row["n_tokens"] == len(kept[e])
            assert row["agreement"] == pytest.approx(agreement(kept[e], kept[3]))
            counts.add(len(kept[e]))
    assert min(counts) < T


def test_agreement():
    assert agreement([1, 2, 3], [1, 2, 3]) == 1
    assert agreement([1, 9, 3], [1, 2, 3, 4]) == 0.5
    assert agreement([7], [1, 2]) == 0


def test_curve_and_paired_tables(run):
    write_rates(run, depth_curves(run.path), Windows())
    rows = read_table(run.path, "curve").to_pylist()
    assert {r["label"] for r in rows if r["exit"]} == {"harmful", "harmless"}
    for label in ("harmful", "harmless"):
        for exit_layer in range(1, 5):
            shares = [
                r
                for r in rows
                if (r["label"], r["exit"]) == (label, exit_layer) and "outcome" in r["metric"]
            ]
            assert len(shares) == len(Outcome)
            assert sum(r["value"] for r in shares) == pytest.approx(1)
            assert all(r["n"] == 4 for r in shares)
            # Of four prompts nothing is said.
            bounds = ("low", "high", "band_low", "band_high")
            assert {r[bound] for r in shares for bound in bounds} == {None}
    (windows,) = {row["verdict"] for row in read_table(run.path, "windows").to_pylist()}
    assert windows == "too few prompts"
    rates = Rates.read(run.path)
    for label, counts in held_out_counts().items():
        detected = [r for r in rows if r["exit"] is None and r["label"] == label]
        assert {r["metric"]: round(r["value"] * r["n"]) for r in detected} == {
            f"detected_{outcome}": count for outcome, count in counts.items()
        }
    refusals = rates.detected["refuse", "refuse"]
    assert f"{refusals.value:.0%} of {refusals.n} refusals" in rates.detection_error
    generations = read_table(run.path, "generations").to_pylist()
    labels = {p["prompt_id"]: p["label"] for p in read_table(run.path, "prompts").to_pylist()}
    for outcome in Outcome:
        is_outcome = [
            g["outcome"] == outcome
            for g in generations
            if g["exit"] == 2 and labels[g["prompt_id"]] == "harmful"
        ]
        assert rates.of(outcome, "harmful").value[1] == pytest.approx(np.mean(is_outcome))
    paired = read_table(run.path, "paired").to_pylist()
    assert [(r["label"], r["exit"]) for r in paired] == [
        (label, exit) for label in ("harmful", "harmless") for exit in (1, 2, 3)
    ]
    outcomes = read_outcomes(run.path)
    assert PAIRED.from_frame(paired_frame(outcomes)).to_pylist() == paired
    assert {r["tests"] for r in paired} == {3}
    once, again = (pd.concat(outcome_frames(outcomes)) for _ in range(2))
    pd.testing.assert_frame_equal(once, again, check_exact=True)
    assert pq.read_schema(run.table_path("curve")).names == [
        "metric",
        "label",
        "exit",
        "n",
        "value",
        "low",
        "high",
        "band_low",
        "band_high",
        "corrected",
        "corrected_low",
        "corrected_high",
    ]


def test_another_judge_has_no_detection_error(tiny_path, tmp_path):
    settings = settings_of(Sweep, tiny_path, tmp_path / "run", limit=2, max_new_tokens=4)
    run = sweep(settings, judge=lambda texts, prompts: ["comply"] * len(texts))
    write_rates(run, depth_curves(run.path), Windows())
    rates = Rates.read(run.path)
    assert rates.detection_error == ""
    assert sum(rates.of("refuse", "harmful").value) == 0


# Statistics


def test_wilson():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148, method 3
    for count, total, expected in ((81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605))):
        assert wilson(count, total) == pytest.approx(expected, abs=5e-5)
        scipys = binomtest(count, total).proportion_ci(method="wilson")
        assert wilson(count, total) == pytest.approx((scipys.low, scipys.high))
    assert wilson(0, 100) == pytest.approx((0, 3 / 100), abs=1e-3)
    assert wilson(100, 100) == pytest.approx((1 - 3 / 100, 1), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(1, 1)[1] == 1.0


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (3, 3), (10, 2), (1, 0), (40, 60)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    first_N = np.repeat([True, False], [b, c])
    assert cluster_mcnemar(first_N, ~first_N, range(b + c)) == pytest.approx(expected)


def test_holm():
    # each p-value times the number of hypotheses that are not yet rejected
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_wilson_covers():
    rng = np.random.default_rng(0)
    for rate in (0.02, 0.1, 0.5):
        hits = [
            low <= rate <= high
            for low, high in (wilson(int(k), 80) for k in rng.binomial(80, rate, 2000))
        ]
        assert np.mean(hits) > 0.92
    assert math.isfinite(wilson(5, 80)[0])
