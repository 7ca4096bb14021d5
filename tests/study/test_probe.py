"""`jaxdepth probe`: every number by a slow twin, runs that are killed, and runs that are joined."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from studies import settings_of

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.model.steer import steer
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.direction import read_directions
from jaxdepth.probing.folds import make_folds
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.prompts.prompt import prompt_of_row
from jaxdepth.refusal.openers import resolve_openers
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.study.common_tables import GENERATIONS
from jaxdepth.study.probes.ablation import ablate
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.behaviour import ANSWERED, NEITHER, REFUSED, read_behaviour
from jaxdepth.study.probes.evaluate import CrossValidation, Examples, Target, folds_of
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe, Where
from jaxdepth.study.run_directory import Run, _record_digest, read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.verdicts.tables import VERDICT_TABLE

pytestmark = pytest.mark.usefixtures("quick_programs")

LIMIT, STRENGTHS, LABELS = 20, (1e-3, 1e-1), ("harmful", "harmless")
TABLES = ("prompts", "first_token", "probes", "probe_scores", "curves", "change_points")


def settings(tiny_path, out, **changes) -> Probe:
    small = {"positions": ("instruction", "last"), "folds": 4, "draws": 50, "batch_size": 8}
    small |= {"strengths": STRENGTHS, "limit": LIMIT, "transfer": ("builtin:pairs/test",)}
    return settings_of(Probe, tiny_path, out, **(small | changes))


@pytest.fixture(scope="module")
def behaved(tiny_path, tmp_path_factory):
    """A sweep of the same prompts with made-up outcomes, as a random model has none of them."""
    folder = tmp_path_factory.mktemp("sweep")
    how = {"limit": LIMIT, "exits": "2-4", "max_new_tokens": 0}
    run = sweep(settings_of(Sweep, tiny_path, folder / "run", **how))
    ids, rng = [p["prompt_id"] for p in prompts_of(run)], np.random.default_rng(0)
    outcomes = ["refuse", "comply", "partial", "degenerate", "off-topic"]
    rows = [
        {"prompt_id": i, "exit": e, "sample": m}
        | {"outcome": rng.choice(outcomes, p=[0.3, 0.4, 0.1, 0.1, 0.1])}
        for i in ids
        for e in (2, 3, 4)
        for m in (0, 1)  # only the first counts
    ]
    run.write_table(GENERATIONS.name, GENERATIONS.from_rows(rows))
    return run


@pytest.fixture(scope="module")
def probed(tiny_path, behaved, tmp_path_factory):
    return probe(settings(tiny_path, tmp_path_factory.mktemp("probe") / "run", run=behaved.path))


def prompts_of(run):
    return read_table(run.path, "prompts").to_pylist()


def padded(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One sequence and its length; all of one shape, so that one program serves them."""
    return np.array([ids + [0] * (96 - len(ids))]), np.array([len(ids)])


def test_streams_on_disk_are_those_of_the_model(tiny_path, probed):
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder = PromptEncoder(tokenizer)
    for n, prompt in list(enumerate(prompts_of(probed)))[::9]:
        ids, instruction = encoder.locate(prompt["text"])
        places = np.array([[instruction, len(ids) - 1]])
        want_PJD = residuals(model, *padded(ids), places)[0]
        for p in range(2):
            got_JD = read_stream(probed.path, "own", p)[:, n]
            np.testing.assert_allclose(got_JD, want_PJD[p], atol=2e-5)


def test_scores_and_aurocs_by_scikit_learn(probed):
    """Out-of-fold scores of one position, fitted and chosen by the plainest code there is."""
    prompts = prompts_of(probed)
    y = np.array([p["label"] == "harmful" for p in prompts])
    fold = make_folds([p["pair_id"] for p in prompts], y, 4, 0)
    x_JND = read_stream(probed.path, "own", 1).astype(np.float64)
    scores, probes = (read_table(probed.path, t).to_pylist() for t in ("probe_scores", "probes"))
    for layer in range(5):
        expected = np.zeros(len(y))
        for f in range(4):
            test, choose = fold == f, fold == (f + 1) % 4
            train = ~test & ~choose
            middle = x_JND[layer, train].mean(axis=0)
            scale = np.sqrt(x_JND[layer, train].var(axis=0).mean()) or 1.0
            z = (x_JND[layer] - middle) / scale
            fits = [
                LogisticRegression(C=c, tol=1e-10, max_iter=10000).fit(z[train], y[train])
                for c in STRENGTHS
            ]
            area = [roc_auc_score(y[choose], s.decision_function(z[choose])) for s in fits]
            best = int(np.argmax(np.round(area, 9)))  # of equals the strongest regularisation
            expected[test] = fits[best].decision_function(z[test])
        at = ("content", "last", layer, "own")
        rows = [r for r in scores if (r["target"], r["position"], r["layer"], r["set"]) == at]
        assert [r["prompt_id"] for r in rows] == [p["prompt_id"] for p in prompts]
        np.testing.assert_allclose([r["score"] for r in rows], expected, atol=1e-3)
        (row,) = (
            r for r in probes
            if (r["target"], r["position"], r["layer"], r["probe"], r["set"])
            == ("content", "last", layer, "logistic", "own")
        )  # fmt: skip
        pairs = [
            np.sign(a - b)
            for f in range(4)
            for a in expected[(fold == f) & y]
            for b in expected[(fold == f) & ~y]
        ]
        assert row["auroc"] == pytest.approx((np.mean(pairs) + 1) / 2, abs=1e-3)
        assert row["low"] <= row["auroc"] <= row["high"]


def test_controls_stand_beside_every_number(probed):
    rows = read_table(probed.path, "probes").to_pylist()
    for target in ("content", "behaviour"):
        for position in ("instruction", "last"):
            for probe_ in ("logistic", "difference", "shuffled labels", "random"):
                layers = [
                    r["layer"] for r in rows
                    if (r["target"], r["position"], r["probe"], r["set"])
                    == (target, position, probe_, "own")
                ]  # fmt: skip
                assert layers == [0, 1, 2, 3, 4]
        assert sum(r["probe"] == "bag of words" and r["target"] == target for r in rows) >= 1
    embedding = [r for r in rows if r["layer"] == 0 and r["position"] == "last"]
    assert {r["auroc"] for r in embedding if r["set"] == "own"} == {0.5}  # the same token in all
    shuffled = {
        (r["target"], r["position"], r["layer"]): r["auroc"]
        for r in rows
        if r["probe"] == "shuffled labels"
    }
    for r in rows:
        if r["probe"] == "logistic" and r["set"] == "own":
            control = shuffled[r["target"], r["position"], r["layer"]]
            assert r["selectivity"] == pytest.approx(r["auroc"] - control)


def test_knows_and_does_by_counting(behaved, probed):
    label = {p["prompt_id"]: p["label"] for p in prompts_of(probed)}
    knows = {
        (r["prompt_id"], r["layer"]): r["score"] > 0
        for r in read_table(probed.path, "probe_scores").to_pylist()
        if (r["target"], r["position"], r["set"]) == ("content", "last", "own")
    }
    outcome = {
        (r["prompt_id"], r["exit"]): r["outcome"]
        for r in read_table(behaved.path, "generations").to_pylist()
        if r["sample"] == 0
    }
    rows = {
        (r["exit"], r["label"], r["quadrant"]): r
        for r in read_table(probed.path, "knows_does").to_pylist()
        if r["position"] == "last"
    }
    assert len(rows) == 3 * 2 * 5
    harmless = [i for i in label if label[i] == "harmless"]
    answered = {e: np.mean([outcome[i, e] == "comply" for i in harmless]) for e in (2, 3, 4)}
    for exit in (2, 3, 4):
        marks = {row["competent"] == "yes" for (e, *_), row in rows.items() if e == exit}
        assert marks == {answered[exit] >= max(0.1, answered[4] / 2)}
        harmful = [i for i in label if label[i] == "harmful"]
        knew = np.array([knows[i, exit] for i in harmful])
        refused = np.array([outcome[i, exit] in ("refuse", "partial") for i in harmful])
        complied = np.array([outcome[i, exit] == "comply" for i in harmful])
        expected = {
            "knows and refuses": knew & refused,
            "knows but complies": knew & complied,
            "refuses without knowing": ~knew & refused,
            "complies without knowing": ~knew & complied,
            "neither refuses nor complies": ~refused & ~complied,
        }
        for name, which in expected.items():
            row = rows[exit, "harmful", name]
            assert (row["count"], row["n"]) == (sum(which), LIMIT), (exit, name)


def test_behaviour_is_also_read_from_verdicts(behaved, tmp_path):
    """The first vote of a run of `decide` counts; abstain is neither refused nor answered."""
    shutil.copytree(behaved.path, tmp_path / "run")
    run = Run.open(tmp_path / "run", behaved.record["settings"], {})
    prompts = list(map(prompt_of_row, prompts_of(run)))[:4]
    rows = [
        {"prompt_id": p.prompt_id, "exit": exit, "vote": vote, "verdict": verdict}
        for p, last in zip(prompts, ("refuse", "partial", "comply", "abstain"), strict=True)
        for exit in (3, 4)
        for vote, verdict in ((0, last if exit == 4 else "comply"), (1, "refuse"))
    ]
    run.write_table(VERDICT_TABLE.name, VERDICT_TABLE.from_rows(rows))
    behaviour = read_behaviour(run.path, prompts, behaved.record["settings"])
    expected = [REFUSED, REFUSED, ANSWERED, NEITHER]
    assert (behaviour.exits, [*behaviour.at_full_depth_N]) == ([3, 4], expected)
    assert behaviour.behaviour_NE[:, 0].tolist() == [ANSWERED] * 4
    assert behaviour.digest == run.record["tables"]["verdicts"]["sha256"]
    run.write_table(VERDICT_TABLE.name, VERDICT_TABLE.from_rows(rows[:2]))
    with pytest.raises(InputError, match="has no full depth: run it with exit 4"):
        read_behaviour(run.path, prompts, behaved.record["settings"])


def test_folds_keep_pairs_or_sources_whole():
    prompts = read_prompts([f"builtin:pairs/{s}[:12]" for s in ("validation", "test", "unseen")])
    validation = CrossValidation(3, STRENGTHS, seed=0)
    for group_by, kept in (("pair", "pair_id"), ("source", "source")):
        own = Examples.of("own", prompts, 20, 0, group_by)
        target = Target("content", np.arange(len(prompts)), own.harmful_N)
        fold_N, counts_RN = folds_of(validation, own, target)
        folds = {}
        for prompt, fold in zip(prompts, fold_N, strict=True):
            folds.setdefault(getattr(prompt, kept), set()).add(fold)
        assert all(len(numbers) == 1 for numbers in folds.values())
        assert (len({min(f) for f in folds.values()}), len(folds)) in ((3, 18), (3, 3))
        # Pairs are resampled, not sources: three sources are too few for a bootstrap.
        assert np.array_equal(counts_RN, resample_counts([p.cluster_id for p in prompts], 20, 0))


def test_directions_are_differences_of_means(probed):
    y = np.array([p["label"] == "harmful" for p in prompts_of(probed)])
    directions = read_directions(probed.path / "directions.safetensors")
    x_JND = read_stream(probed.path, "own", 1)
    want_JD = x_JND[:, y].mean(axis=1) - x_JND[:, ~y].mean(axis=1)
    np.testing.assert_allclose(directions.arrays["content.last"], want_JD, atol=1e-5)
    assert "behaviour.instruction" in directions.arrays


def test_the_response_is_the_first_token_of_full_depth(tiny_path, tmp_path):
    model, _ = jaxdepth.load(tiny_path)
    ids = np.random.default_rng(0).integers(0, 90, (5, 12))
    run = Run.open(tmp_path / "run", {}, {})
    capture(run, model, Capture("own", ids.tolist(), np.full((5, 1), 3), response=True), 2)
    tokens = np.asarray(jaxdepth.exit_logits(model, ids, np.full(5, 12), 4)).argmax(axis=1)
    replied = np.concatenate([ids, tokens[:, None]], axis=1)
    expected = residuals(model, replied, np.full(5, 13), np.full((5, 1), 12))
    np.testing.assert_allclose(
        read_stream(run.path, "own", 1), np.asarray(expected)[:, 0].swapaxes(0, 1), atol=2e-5
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxdepth.settings_file import build
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe
left = int(sys.argv[3])
rename = Path.replace
def replace(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = replace
how = {"positions": ("instruction", "last"), "folds": 4, "draws": 50, "batch_size": 8}
how |= {"strengths": (1e-3, 1e-1), "limit": 20, "transfer": "builtin:pairs/test"}
probe(build(Probe, {"model": sys.argv[1], "out": sys.argv[2], "run": sys.argv[4], **how}))
"""


def test_a_killed_run_resumes(tiny_path, behaved, probed, tmp_path):
    """Killed when the streams and some of the tables exist."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tiny_path, tmp_path / "run", "21", behaved.path],
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert "activations" in names
    assert "change_points.parquet" not in names
    resumed = probe(settings(tiny_path, tmp_path / "run", run=behaved.path))
    for table in (*TABLES, "knows_does"):
        assert pq.read_table(resumed.table_path(table)).equals(
            pq.read_table(probed.table_path(table))
        ), table
    assert not (resumed.path / "parts").exists()


def test_ablation_by_a_slow_twin(tiny_path, probed, tmp_path):
    study = settings_of(Where, tiny_path, tmp_path, transfer=("builtin:pairs/unseen",), limit=10)
    run = ablate(study, probed.path)
    rows = {
        (r["layer"], r["ablated"], r["metric"], r["label"]): r
        for r in read_table(run.path, "ablation").to_pylist()
    }
    assert len(rows) == 5 * (1 + 3 * 4)
    model, tokenizer = jaxdepth.load(tiny_path)
    encoder = PromptEncoder(tokenizer)
    openers = list(resolve_openers(encoder).values())
    axis = read_directions(probed.path / "directions.safetensors").arrays["content.last"][2]
    texts = {k: [p["text"] for p in prompts_of(run) if p["label"] == k] for k in LABELS}
    mean_D = jaxdepth.hidden_states(model, tokenizer, texts["harmless"])[:, 0, 2].mean(axis=0)
    to_mean = "set", float(mean_D @ axis / np.linalg.norm(axis))
    ways = [((2,), "after that layer", ("ablate",)), ((2,), "to the harmless mean", to_mean)]
    for layers, ablated, how in (*ways, ((1, 2, 3, 4), "after every layer", ("ablate",))):
        means = []
        for steered in (steer(model, axis, layers, *how), model):
            logp = [
                jax.nn.log_softmax(jaxdepth.exit_logits(steered, *padded(ids), 4)[0])
                for ids in (encoder.encode(text) for text in texts["harmful"])
            ]
            p_N = np.exp(np.array(logp, np.float64))[:, openers].sum(axis=1)
            means.append(np.mean(np.log(p_N) - np.log1p(-p_N)))
        row = rows[2, ablated, "refusal log-odds", "harmful"]
        assert row["value"] == pytest.approx(means[0], abs=1e-4)
        assert row["change"] == pytest.approx(means[0] - means[1], abs=1e-4)
        assert row["change_low"] <= row["change"] <= row["change_high"]
    assert not any(r["change"] for r in rows.values() if r["ablated"] == "nowhere")


def test_memory_does_not_grow_with_the_prompts(tiny_path, tmp_path):
    model, _ = jaxdepth.load(tiny_path)
    rng = np.random.default_rng(0)
    peaks = []
    for count in (32, 256):
        ids = rng.integers(0, 90, (count, 24)).tolist()
        run = Run.open(tmp_path / str(count), {}, {})
        tracemalloc.start()
        capture(run, model, Capture("own", ids, np.full((count, 4), 20)), 16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert read_stream(run.path, "own", 3).shape == (5, count, 64)
    # Ids of 256 prompts are lists of numbers; streams of all of them would be 1.3 MB.
    assert peaks[1] < peaks[0] + 300_000


def command(tiny_path, out, capsys, *more) -> tuple[int, str]:
    argv = ["probe", str(tiny_path), "--out", str(out), "--limit", "6", "--folds", "3"]
    status = main([*argv, "--draws", "20", "--positions", "last", *map(str, more)])
    return status, capsys.readouterr()


def test_the_command_prints_findings_and_draws(tiny_path, tmp_path, capsys):
    transfer = ("--transfer", "builtin:pairs/test")
    status, printed = command(tiny_path, tmp_path / "run", capsys, *transfer)
    assert status == 0
    assert "layer chosen on validation" in printed.out
    assert "Transferred to test" in printed.out
    for name in ("probes_content", "change_points"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 5000
    assert command(tiny_path, tmp_path / "run", capsys, *transfer)[0] == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["facts"]["template"]["last"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--positions", "lost"], "no position 'lost'; did you mean 'last'?"),
        (["--folds", "2"], "folds is 2, expected at least 3"),
        (["--folds", "9"], "has 6 groups for 9 folds"),
        (["--strengths", "0"], "strengths is 0.0, expected more than 0"),
        (["--transfer", "builtin:harmful"], "has harmful prompts only"),
        (["--prompts", "builtin:ordinary"], "has harmless prompts only"),
        (["--run", "nowhere"], "is not a run directory"),
    ],
)
def test_bad_input_is_one_line(tiny_path, tmp_path, capsys, more, message):
    status, printed = command(tiny_path, tmp_path / "run", capsys, *more)
    assert status == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_run_of_another_model_or_other_prompts_is_refused(tiny_path, behaved, tmp_path):
    record = dict(behaved.record, settings=behaved.record["settings"] | {"steer": "add"})
    (other := tmp_path / "other").mkdir()
    for name in ("prompts", "generations"):
        os.link(behaved.table_path(name), other / f"{name}.parquet")
    sealed = record | {"sha256": _record_digest(record)}
    (other / "run.json").write_text(json.dumps(sealed))
    with pytest.raises(InputError, match="is a run of another model"):
        probe(settings(tiny_path, tmp_path / "run", run=other))
    with pytest.raises(InputError, match="lacks 20 of these prompts"):
        probe(settings(tiny_path, tmp_path / "run", run=behaved.path, limit=30))
