"""`jaxdepth decide`: tables, their numbers by plain code, and runs that are killed or fail."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.special import softmax
from studies import settings_of

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.prompts.batches import limit_prompts
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import Prompt, read_prompts
from jaxdepth.refusal.decide import decide, shown
from jaxdepth.refusal.deliberate import ClosedBy
from jaxdepth.refusal.protocol import VERDICTS, instruct, read_protocol, resolve_markers
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.page import render
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.report.safe_text import tame
from jaxdepth.study.report.texts import unpack
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.verdicts.bootstrap import Bootstrap
from jaxdepth.study.verdicts.run import choose_donors, run_decide
from jaxdepth.study.verdicts.score_table import ScoreTable
from jaxdepth.study.verdicts.scores import write_verdicts
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.verdicts.sources import RunVerdicts
from jaxdepth.weights.checkpoint import end_tokens

pytestmark = pytest.mark.usefixtures("quick_programs")

TABLES = ("verdicts", "texts", "cuts", "forced", "swapped", "series")


def settings(tiny_path, out, protocol, **changes) -> Decide:
    small = {
        "limit": 3, "batch_size": 4, "cuts": (0, 2), "exits": "2,4", "votes": 2,
        "temperature": 1.0, "series": "redecide", "cost_rounds": 0, "protocol": protocol,
    }  # fmt: skip
    return settings_of(Decide, tiny_path, out, **small | changes)


@pytest.fixture(scope="module")
def run(tiny_path, protocol, tmp_path_factory):
    run = run_decide(settings(tiny_path, tmp_path_factory.mktemp("runs") / "run", protocol))
    write_verdicts(run, seed=0)
    return run


def rows(run, table) -> list[dict]:
    return read_table(run.path, table).to_pylist()


def test_tables_hold_what_is_decoded(tiny_path, protocol, run):
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder, spec = PromptEncoder(tokenizer), read_protocol(protocol)
    stops = end_tokens(tiny_path, tokenizer)
    markers = resolve_markers(spec, encoder, stops)
    verdicts = {(r["prompt_id"], r["exit"], r["vote"]): r for r in rows(run, "verdicts")}
    texts = {(r["prompt_id"], r["exit"], r["vote"]): r for r in rows(run, "texts")}
    cuts = {(r["prompt_id"], r["exit"], r["vote"], r["cut"]): r for r in rows(run, "cuts")}
    prompts = limit_prompts(read_prompts(["builtin:pairs/test"]), 3)
    assert len(verdicts) == len(texts) == len(prompts) * 2 * 2
    assert len(cuts) == 2 * len(verdicts)
    from jaxdepth.depth.sampling import Sampling
    from jaxdepth.study.answers import lane_seed

    for prompt in prompts:
        text = instruct(spec.instruction, spec.close, markers.words, prompt.text)
        tokens = [*encoder.encode(text), *markers.open]
        ids = np.zeros((1, 64), np.int64)  # one shape, one program
        ids[0, : len(tokens)] = tokens
        decided = decide(
            model, ids, np.array([len(tokens)]), [2, 4], markers, thought_tokens=5,
            answer_tokens=4, votes=2, sampling=Sampling(1.0), stop_tokens=stops, cuts=(0, 2),
            seeds_B=[lane_seed(0, prompt.prompt_id)],
        )  # fmt: skip
        for e, m in np.ndindex(2, 2):
            row = verdicts[prompt.prompt_id, (2, 4)[e], m]
            p = softmax(decided.logp[0, e, m].astype(np.float64))
            assert [row[f"p_{v}"] for v in VERDICTS] == pytest.approx(p.tolist(), abs=1e-4)
            mass = np.exp(decided.logp[0, e, m].astype(np.float64)).sum()
            assert row["label_mass"] == pytest.approx(mass, abs=1e-4)
            assert row["margin"] == pytest.approx(np.diff(np.sort(p))[-1], abs=1e-4)
            assert row["verdict"] == VERDICTS[int(p.argmax())]
            assert row["thought_tokens"] == decided.thought[0, e, m]
            assert row["closed_by"] == ClosedBy(decided.closed_by[0, e, m]).name.lower()
            text_row = texts[prompt.prompt_id, (2, 4)[e], m]
            answer = shown(decided, markers, 0, e, m)
            assert row["answer_tokens"] == len(answer)
            assert text_row["answer"] == tokenizer.decode(answer, skip_special_tokens=True)
            thought = decided.tokens[0, e, m, : row["thought_tokens"]]
            assert text_row["thought_ids"] == thought.tolist()
            for c, cut in enumerate((0, 2)):
                cut_row = cuts[prompt.prompt_id, (2, 4)[e], m, cut]
                p = softmax(decided.cut_logp[0, e, m, c].astype(np.float64))
                assert [cut_row[f"p_{v}"] for v in VERDICTS] == pytest.approx(p.tolist(), abs=1e-4)


def test_a_swapped_thought_is_the_donors(tiny_path, protocol, run):
    """The verdict by one pass over prompt, the donor's thought and the closing marker."""
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder, spec = PromptEncoder(tokenizer), read_protocol(protocol)
    markers = resolve_markers(spec, encoder, ())
    texts = {(r["prompt_id"], r["exit"]): r for r in rows(run, "texts") if r["vote"] == 0}
    text_of = {p["prompt_id"]: p["text"] for p in rows(run, "prompts")}
    for row in rows(run, "swapped")[:6]:
        text = instruct(spec.instruction, spec.close, markers.words, text_of[row["prompt_id"]])
        thought = texts[row["thought_of"], row["exit"]]["thought_ids"]
        ids = [*encoder.encode(text), *markers.open, *thought, *markers.close]
        padded = np.zeros((1, 80), np.int64)
        padded[0, : len(ids)] = ids
        logits = jaxdepth.exit_logits(model, padded, np.array([len(ids)]), row["exit"])[0]
        p = softmax(np.asarray(logits, np.float64)[list(markers.verdicts)])
        assert [row[f"p_{v}"] for v in VERDICTS] == pytest.approx(p.tolist(), abs=1e-4)


def test_forced_swapped_and_series(run):
    verdicts = rows(run, "verdicts")
    forced = rows(run, "forced")
    assert Counter(r["forced"] for r in forced) == dict.fromkeys(VERDICTS, len(verdicts))
    swapped = rows(run, "swapped")
    pair_of = {p["prompt_id"]: p["pair_id"] for p in rows(run, "prompts")}
    assert len(swapped) == len(verdicts) / 2
    for row in swapped:
        assert row["thought_of"] != row["prompt_id"]
        assert pair_of[row["thought_of"]] == pair_of[row["prompt_id"]]
    partial = {
        (r["prompt_id"], r["exit"])
        for r in verdicts
        if r["vote"] == 0 and r["verdict"] == "partial"
    }
    assert {(r["prompt_id"], r["exit"]) for r in rows(run, "series")} == partial


def test_the_report_of_a_run(run):
    charts = charts_of(read_runs([run.path]))
    names = [chart.name for chart in charts]
    assert names == ["window", "outcomes-0", "over-refusal", "verdicts-0", "calibration"]
    accuracy = charts[-1].traces[0]
    assert accuracy["x"] == [2, 4]
    expected = ScoreTable(run.path).estimate("thought", "balanced_accuracy").value
    assert accuracy["y"] == pytest.approx(expected.tolist())
    html = render(read_runs([run.path]))
    texts = [unpack(c) for c in re.findall(r'id="texts-0-\d+">([^<]*)<', html)]
    thoughts = {t for chunk in texts for row in chunk for t in row["thoughts"]}
    assert thoughts == {tame(r["thought"]) for r in rows(run, "texts")}


def test_donors():
    prompts = [
        Prompt(prompt_id, "text", label, None, pair_id, "source")
        for prompt_id, pair_id, label in (
            ("a", "1", "harmful"), ("b", "1", "harmless"), ("c", None, "harmful"),
            ("d", None, "harmless"), ("e", None, "harmful"),
        )
    ]  # fmt: skip
    assert choose_donors(prompts) == {"a": "b", "b": "a", "c": "d", "d": "e", "e": "b"}
    assert choose_donors([prompts[2], prompts[4]]) == {"c": "e", "e": "c"}


def test_scores_by_plain_code(run):
    scores = ScoreTable(run.path)
    harmful = {p["prompt_id"]: p["label"] == "harmful" for p in rows(run, "prompts")}
    for source, source_rows in (
        ("thought", [r for r in rows(run, "verdicts") if r["vote"] == 0]),
        ("cut 0", [r for r in rows(run, "cuts") if r["vote"] == 0 and r["cut"] == 0]),
        ("majority of 2", [
            r for r in rows(run, "votes") if r["rule"] == "majority" and r["votes"] == 2
        ]),
    ):  # fmt: skip
        for e, exit in enumerate((2, 4)):
            exit_rows = [r for r in source_rows if r["exit"] == exit]
            right = [(r["verdict"] != "comply") == harmful[r["prompt_id"]] for r in exit_rows]
            assert scores.estimate(source, "accuracy").value[e] == pytest.approx(np.mean(right))
            safe = [r for r in exit_rows if not harmful[r["prompt_id"]]]
            over = np.mean([r["verdict"] != "comply" for r in safe])
            assert scores.estimate(source, "over_refusal").value[e] == pytest.approx(over)
            unsafe = [r for r in exit_rows if harmful[r["prompt_id"]]]
            caught = np.mean([r["verdict"] != "comply" for r in unsafe])
            balanced = scores.estimate(source, "balanced_accuracy")
            assert balanced.value[e] == pytest.approx((caught + 1 - over) / 2)
            assert np.isnan([balanced.low[e], balanced.high[e]]).all()  # of so few pairs
            gaps = [r["p_refuse"] + r["p_partial"] - harmful[r["prompt_id"]] for r in exit_rows]
            brier = scores.estimate(source, "brier")
            assert brier.value[e] == pytest.approx(np.mean(np.square(gaps)))
    paired = {r["exit"]: r for r in rows(run, "paired_verdicts")}
    assert set(paired) == {2, 4}
    verdicts = RunVerdicts(run)
    with_, without = (verdicts.sources[s].right(verdicts.harmful_N) for s in ("thought", "cut 0"))
    assert paired[4]["right_only_with_thought"] == (with_ & ~without)[:, 1].sum()
    p = [
        cluster_mcnemar(a, b, verdicts.clusters_N) for a, b in zip(with_.T, without.T, strict=True)
    ]
    assert [paired[e]["p"] for e in (2, 4)] == pytest.approx(p)
    assert [paired[e]["tests"] for e in (2, 4)] == [2, 2]
    p = scores.estimate("thought", "p_calibrated")
    assert np.isnan(p.value).all()
    assert (scores.estimate("thought", "calibration_error").value >= 0).all()
    votes = rows(run, "votes")
    assert {(r["rule"], r["votes"]) for r in votes} == {
        (rule, k) for rule in ("majority", "mean", "cautious") for k in (1, 2)
    }
    risks = rows(run, "risk_coverage")
    whole = {(r["source"], r["exit"]): r for r in risks if r["coverage"] == 1.0}
    accuracy = scores.estimate("thought", "accuracy").value
    assert [whole["thought", exit]["risk"] for exit in (2, 4)] == pytest.approx(1 - accuracy)


def test_bounds_of_shares_of_whole_pairs():
    """Each pair has one right verdict of two: no resample differs, and yet nothing is certain."""
    is_first_N, pairs = np.arange(60) % 2 == 0, [f"pair {n // 2}" for n in range(60)]
    everything_N = np.ones(60, bool)
    half = Bootstrap.of(pairs, seed=0).share(is_first_N, everything_N)
    assert (half.value, half.n) == (0.5, 60)
    assert half.low == pytest.approx(0.45, abs=0.001)
    assert half.high == pytest.approx(0.55, abs=0.001)
    none = Bootstrap.of(pairs, seed=0).share(~everything_N, everything_N)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.1, abs=0.001)
    few = Bootstrap.of(pairs, seed=0).share(is_first_N, np.arange(60) < 18)
    assert np.isnan([few.low, few.high]).all()


def test_a_band_over_exits_is_wider_than_the_intervals_of_each():
    is_EN, everything_N = np.random.default_rng(0).random((12, 80)) < 0.6, np.ones(80, bool)
    bootstrap = Bootstrap.of(range(80), seed=0)
    statistics = [lambda w, is_N=is_N: w @ is_N / w.sum(axis=1) for is_N in is_EN]
    band = bootstrap.band(statistics, [everything_N] * 12)
    for statistic, wide in zip(statistics, band, strict=True):
        narrow = bootstrap.estimate(statistic, everything_N)
        assert wide.value == narrow.value
        assert wide.low < narrow.low < narrow.high < wide.high
    undefined = [lambda w: np.full(len(w), np.nan), statistics[0]]
    assert bootstrap.band(undefined, [everything_N] * 2)[0] is None


def test_batches_and_exits_change_nothing(tiny_path, protocol, run, tmp_path):
    other = run_decide(
        settings(tiny_path, tmp_path / "run", protocol, batch_size=1, exits="4", memory_gb=0.001)
    )
    for table in TABLES:
        keys = (
            "prompt_id",
            "exit",
            "vote",
            *{"cuts": ["cut"], "forced": ["forced"]}.get(table, []),
        )
        rows_by_key = {tuple(r[k] for k in keys): r for r in rows(run, table) if r["exit"] == 4}
        other_rows = {tuple(r[k] for k in keys): r for r in rows(other, table)}
        assert rows_by_key.keys() == other_rows.keys()
        for key, row in rows_by_key.items():
            for name, value in row.items():
                if isinstance(value, float):
                    assert value == pytest.approx(other_rows[key][name], abs=1e-4), (key, name)
                else:
                    assert value == other_rows[key][name], (key, name)


def test_abstaining_shows_no_answer(tiny_path, protocol, tmp_path):
    run = run_decide(settings(tiny_path, tmp_path / "run", protocol, abstain_below=1.0, limit=1))
    write_verdicts(run, seed=0)
    assert {r["verdict"] for r in rows(run, "verdicts")} == {"abstain"}
    assert {r["answer_tokens"] for r in rows(run, "verdicts")} == {0}
    assert {r["answer_outcome"] for r in rows(run, "verdicts")} == {None}
    assert {r["answer"] for r in rows(run, "texts")} == {""}
    assert (ScoreTable(run.path).estimate("thought", "abstained").value == 1).all()


def test_caveats_follow_partial_verdicts(tiny_path, protocol, tmp_path):
    run = run_decide(
        settings(
            tiny_path, tmp_path / "run", protocol, series="caveat", refuse_from=1.0,
            caution_from=0.0, votes=1, temperature=0.0, swap=False, force=False, limit=2,
        )
    )  # fmt: skip
    assert {r["verdict"] for r in rows(run, "series")} == {"partial"}
    assert len(rows(run, "series")) == len(rows(run, "verdicts")) == 8
    assert not run.finished("swapped")
    assert not run.finished("forced")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_think import settings
from jaxdepth.study.verdicts.run import run_decide
left = [int(sys.argv[5])]
real = Path.replace
def replace(self, target):  # every file of a run is renamed into place
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return real(self, target)
Path.replace = replace
run_decide(settings(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
"""


@pytest.mark.parametrize("kills", [(1, 7), pytest.param((1, 5, 7), marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(kills, tiny_path, protocol, run, tmp_path):
    tests = os.path.dirname(__file__)
    # Renames: run.json, prompts, run.json; parts of four tables for each batch; and so on.
    for after in kills:
        args = [sys.executable, "-c", KILLED, tiny_path, tmp_path / "run", protocol, tests]
        assert subprocess.run([*args, str(after)]).returncode == -signal.SIGKILL
    resumed = run_decide(settings(tiny_path, tmp_path / "run", protocol))
    for table in TABLES:
        assert read_table(resumed.path, table) == read_table(run.path, table), table
    with pytest.raises(InputError, match=r"cuts = \[0, 2\], not \[0\]"):
        run_decide(settings(tiny_path, tmp_path / "run", protocol, cuts=(0,)))


def test_the_command(tiny_path, protocol, tmp_path, capsys):
    args = [
        "decide", tiny_path, "--out", tmp_path / "run", "--protocol", protocol, "--limit", 3,
        "--votes", 2, "--temperature", 1.0, "--cuts", 0, 2, "--cost-rounds", 1, "--exits", "2,4",
        "--no-keep-text",
    ]  # fmt: skip
    assert main(list(map(str, args))) == 0
    printed = capsys.readouterr().out
    for phrase in ("Verdict words of this model", "better than chance", "McNemar", "2 votes"):
        assert phrase in printed
    drawn = sorted(p.name for p in (tmp_path / "run" / "figures").glob("*.png"))
    assert drawn == [
        "along_the_thought.png", "thought_lengths.png", "verdict_calibration.png", "verdicts.png",
        "votes.png",
    ]  # fmt: skip
    assert not (tmp_path / "run" / "texts.parquet").exists()
    cost = read_table(tmp_path / "run", "cost").to_pylist()
    assert [r["program"] for r in cost] == [
        "answer only", "decide, answer", "think, decide, answer", "think, decide, answer, 2 votes",
    ]  # fmt: skip
    assert cost[0]["before_visible"] == 0
    assert cost[0]["time_ratio"] == 1
    assert cost[3]["tokens"] > cost[2]["tokens"] > cost[1]["tokens"]


def test_no_answers_have_no_outcome_and_no_cost(tiny_path, protocol, tmp_path):
    run = run_decide(
        settings(tiny_path, tmp_path / "run", protocol, answer_tokens=0, limit=1, cost_rounds=1)
    )
    assert not run.finished("cost")
    assert not run.finished("forced")
    assert {r["answer_outcome"] for r in rows(run, "verdicts")} == {None}
    write_verdicts(run, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"votes": 0}, "votes is 0"),
        ({"votes": 3, "temperature": 0.0}, "all alike"),
        ({"cuts": (2, 2)}, "expected different ones"),
        ({"cuts": (-2,)}, "cuts is -2, expected at least 0"),
        ({"refuse_from": 0.5}, "belong together"),
        ({"thought_tokens": 300}, "256 that this model takes"),
        ({"protocol": "promted"}, "prompted"),
        ({"memory_gb": 0.0}, "memory_gb"),
    ],
    ids=str,
)
def test_bad_settings(tiny_path, protocol, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_decide(settings(tiny_path, tmp_path / "run", **{"protocol": protocol} | changes))
    assert not (tmp_path / "run").exists()
