"""Two checkpoints side by side: their differences by plain loops, and the two studies of them."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from studies import records, settings_of
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import build

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.model.tuned import Form
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.stats.intervals import holm, resample_counts
from jaxdepth.study.checkpoints.backfire import backfire
from jaxdepth.study.checkpoints.knowledge import encode_question, read_questions
from jaxdepth.study.checkpoints.paired import read_paired
from jaxdepth.study.checkpoints.run import compare_checkpoints
from jaxdepth.study.checkpoints.settings import Backfire, ProbeAgainst
from jaxdepth.study.probes.tables import PROBE_SCORES
from jaxdepth.study.run_directory import read_table
from jaxdepth.weights.adapter import Adapter, save_adapter
from jaxdepth.weights.convert import convert

pytestmark = pytest.mark.usefixtures("quick_programs")

DEPTH, DRAWS, LIMIT = 4, 30, 10
OPTIONS = {"positions": ("last",), "folds": 3, "draws": DRAWS, "strengths": (1e-2,)}
OPTIONS |= {"limit": LIMIT, "batch_size": 8}


@pytest.fixture(scope="module")
def models(tiny_path, tmp_path_factory) -> dict[str, Path]:
    """The tiny model, one with other weights, one of another depth, and an adapter of zeros."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), build("chatml")
    paths = {"base": tiny_path, "nothing": folder / "nothing.safetensors"}
    for name, seed, depth in (("other", 1, DEPTH), ("short", 0, 3)):
        raw = raw_config(vocab_size=len(tokenizer), num_hidden_layers=depth)
        source = folder / f"{name}-source"
        write_folder(source, raw, hf_tensors(ModelConfig.from_hf(raw), seed))
        tokenizer.save_pretrained(source)
        paths[name] = folder / name
        convert(source, paths[name])
    config = ModelConfig.from_hf(raw_config(vocab_size=len(tokenizer)))
    _, rows, columns = parameter_shapes(config)["layers.q"]
    params = {"layers.q.a": np.ones((1, rows, 1)), "layers.q.b": np.zeros((1, 1, columns))}
    form = Form(layers=(2,), leaves=("q",), rank=1)
    save_adapter(paths["nothing"], Adapter(form, params, None, (), {}))
    return paths


def settings(models, against: str, out: Path, **changes) -> ProbeAgainst:
    given = OPTIONS | {"facts": "builtin:facts"} | changes
    return settings_of(ProbeAgainst, models["base"], out, against=str(models[against]), **given)


@pytest.fixture(scope="module")
def out(models, tmp_path_factory) -> Path:
    """A finished comparison of two different models."""
    return compare_checkpoints(settings(models, "other", tmp_path_factory.mktemp("runs") / "other"))


@pytest.mark.slow
def test_an_adapter_of_nothing_changes_nothing(models, tmp_path):
    out = compare_checkpoints(settings(models, "nothing", tmp_path / "run"))
    rows = records(read_paired(out))
    assert {r["measure"] for r in rows} == {"auroc", "right", "margin"}
    for row in rows:
        assert row["difference"] == 0, row
        if row["measure"] == "margin":  # nats have no range that could bound what was not seen
            assert np.isnan([row["low"], row["high"]]).all()
        else:
            assert row["low"] == -row["high"] < 0
        assert (row["p"], row["p_holm"]) == (1, 1)
        assert [row[f"base{e}"] for e in ("", "_low", "_high")] == [
            row[f"against{e}"] for e in ("", "_low", "_high")
        ]


def slow_auroc(run: Path, layer: int, times) -> float:
    """Over all pairs of prompts of one fold, each as often as it is in the resample."""
    ids = [p["prompt_id"] for p in read_table(run, "prompts").to_pylist()]
    rows = [r for r in read_table(run, PROBE_SCORES.name).to_pylist() if r["layer"] == layer]
    wins = pairs = 0.0
    for a in rows:
        for b in rows:
            if a["positive"] and not b["positive"] and a["fold"] == b["fold"]:
                often = times[ids.index(a["prompt_id"])] * times[ids.index(b["prompt_id"])]
                pairs += often
                wins += often * ((a["score"] > b["score"]) + 0.5 * (a["score"] == b["score"]))
    return wins / pairs if pairs else np.nan


def plain_difference(base, against, clusters: int) -> tuple:
    """Difference, interval and p-value from numbers by resample, the first of all prompts."""
    change = np.array(against) - np.array(base)
    expanded = (clusters / (clusters - 1)) ** 0.5  # a bootstrap's variance is too small
    tail = 100 * NormalDist().cdf(student.ppf(0.025, clusters - 1) * expanded)
    low, high = np.nanpercentile(change[1:], [tail, 100 - tail])
    spread = np.nanstd(change[1:]) * expanded
    p = 2 * student.sf(abs(change[0]) / spread, clusters - 1) if change[0] else 1.0
    return change[0], low, high, p


def check(rows, curves: dict[int, tuple], clusters: int) -> None:
    """Checks rows of one curve against numbers of both sides by layer and resample."""
    by_layer = {r["layer"]: r for r in rows}
    assert set(by_layer) == {*curves, None}
    counted = [layer for layer in curves if layer > 0]
    mean = tuple(np.mean([curves[layer][side] for layer in counted], axis=0) for side in (0, 1))
    for layer, (base, against) in (curves | {None: mean}).items():
        row = by_layer[layer]
        got = [row[k] for k in ("difference", "low", "high", "p")]
        expected = plain_difference(base, against, clusters)
        if expected[1] == expected[2]:  # the same in all resamples, and yet not certain
            assert got[1] < got[0] == expected[0] < got[2]
            continue
        np.testing.assert_allclose(got, expected, atol=1e-6)
        np.testing.assert_allclose((row["base"], row["against"]), (base[0], against[0]), atol=1e-6)
    p_values = [by_layer[layer]["p"] for layer in curves]
    np.testing.assert_allclose([by_layer[layer]["p_holm"] for layer in curves], holm(p_values))


def test_differences_of_aurocs_by_plain_loops(out):
    rows = [r for r in records(read_paired(out)) if r["measure"] == "auroc"]
    curves = {}
    for n, (domain, folder) in enumerate((("dangerous", out), ("control", out / "control"))):
        runs = [folder / side for side in ("base", "against")]
        prompts = [read_table(run, "prompts").to_pylist() for run in runs]
        assert prompts[0] == prompts[1]
        folds = [read_table(run, PROBE_SCORES.name)["fold"].to_pylist() for run in runs]
        assert folds[0] == folds[1]
        pairs = [p["pair_id"] for p in prompts[0]]
        times = [np.ones(2 * LIMIT), *resample_counts(pairs, DRAWS, n)]
        curves[domain] = {
            layer: tuple([slow_auroc(run, layer, t) for t in times] for run in runs)
            for layer in range(DEPTH + 1)
        }
        check([r for r in rows if r["domain"] == domain], curves[domain], LIMIT)
    between = {
        layer: tuple(
            np.subtract(curves["dangerous"][layer][s], curves["control"][layer][s]) for s in (0, 1)
        )
        for layer in range(DEPTH + 1)
    }
    check([r for r in rows if r["domain"] == "dangerous - control"], between, LIMIT)


def test_knowledge_one_question_and_exit_at_a_time(models, out):
    questions = {q.prompt_id: q for q in read_questions("builtin:facts")}
    for side, name in (("base", "base"), ("against", "other")):
        model, tokenizer = jaxdepth.load(models[name])
        encoder = PromptEncoder(tokenizer)
        conversations = ConversationEncoder(tokenizer, encoder)
        rows = read_table(out / "facts" / side, "facts").to_pylist()
        ids = {i for i, q in questions.items() if encode_question(conversations, q) is not None}
        assert {r["prompt_id"] for r in rows} == ids
        assert len(rows) == len(ids) * DEPTH
        assert len(ids) > 40  # of a small vocabulary some answers begin alike
        for row in rows[::13]:
            question = questions[row["prompt_id"]]
            lead = encoder.encode(question.text) + encoder.reply("The answer is")
            options = [
                encoder.encode(question.text) + encoder.reply(f"The answer is {answer}")
                for answer in (question.right, *question.wrong)
            ]
            assert all(ids[: len(lead)] == lead for ids in options)
            padded = np.array([lead + [0] * (64 - len(lead))])  # one program serves all
            logits = jaxdepth.exit_logits(model, padded, np.array([len(lead)]), row["exit"])
            logprobs = np.asarray(logits[0], np.float64)
            logprobs -= np.log(np.exp(logprobs).sum())
            right, *wrong = (logprobs[ids[len(lead)]] for ids in options)
            assert row["logprob"] == pytest.approx(right, abs=1e-4)
            assert row["margin"] == pytest.approx(right - max(wrong), abs=1e-4)
            assert row["right"] == (row["margin"] > 0)


def test_differences_of_knowledge_by_plain_loops(out):
    rows = records(read_paired(out))
    sides = [read_table(out / "facts" / s, "facts").to_pylist() for s in ("base", "against")]
    value = [{(r["prompt_id"], r["exit"]): r for r in side} for side in sides]
    curves, questions = {}, {}
    for n, domain in enumerate(("general", "neighbouring")):
        ids = sorted({r["prompt_id"] for r in sides[0] if r["domain"] == domain})
        times = [np.ones(len(ids)), *resample_counts(ids, DRAWS, n)]
        for measure in ("right", "margin"):
            curves[domain, measure] = {
                e: tuple(
                    [sum(t[k] * v[i, e][measure] for k, i in enumerate(ids)) / t.sum()
                     for t in times]
                    for v in value
                )
                for e in range(1, DEPTH + 1)
            }  # fmt: skip
            curve = [r for r in rows if (r["domain"], r["measure"]) == (domain, measure)]
            check(curve, curves[domain, measure], len(ids))
            questions[domain] = len(ids)
    for measure in ("right", "margin"):
        between = {
            e: tuple(
                np.subtract(*(curves[d, measure][e][s] for d in ("neighbouring", "general")))
                for s in (0, 1)
            )
            for e in range(1, DEPTH + 1)
        }
        gap = [r for r in rows if r["domain"] == "neighbouring - general"]
        check([r for r in gap if r["measure"] == measure], between, min(questions.values()))


def argv(models, against, out, *more) -> list[str]:
    given = ["probe", models["base"], "--against", models.get(against, against), "--out", out]
    given += ["--positions", "last", "--folds", 3, "--draws", DRAWS, "--limit", LIMIT]
    given += ["--strengths", 0.01, "--batch-size", 8, *more]
    return [str(word) for word in given]


@pytest.mark.parametrize(
    ("against", "more", "says"),
    [
        ("short", [], "has 4 layers, "),
        ("base", [], "is the base itself"),
        ("builtin:shalow", [], "no built-in adapter 'shalow'; did you mean 'shallow'?"),
        ("builtin:shallow", [], "for another model"),
        ("nowhere", [], "--against nowhere: no such checkpoint"),
        ("other", ["--control", "builtin:ordinary"], "a control domain has two"),
        ("other", ["--facts", "nowhere"], "no knowledge set nowhere"),
        ("other", ["--run", "nowhere"], "--run is of one model"),
    ],
)
def test_bad_input_is_one_line(models, tmp_path, capsys, against, more, says):
    assert main(argv(models, against, tmp_path / "run", *more)) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1


def test_a_knowledge_set_needs_another_checkpoint(models, tmp_path, capsys):
    given = [
        "probe",
        str(models["base"]),
        "--out",
        str(tmp_path / "run"),
        "--facts",
        "builtin:facts",
    ]
    assert main(given) == 2
    assert "name the other with --against" in capsys.readouterr().err


@pytest.mark.slow
def test_the_study_of_capability_resumes(models, out, run_experiment, capsys):
    before = read_paired(out)
    (out / "against.parquet").unlink()
    _, *given = argv(models, "other", out, "--facts", "builtin:facts")
    given += ["--prompts", "builtin:pairs/test"]
    assert run_experiment("capability_elicitation", *given) == 0
    pd.testing.assert_frame_equal(read_paired(out), before)
    printed = capsys.readouterr().out
    for text in ("C10, safety training", "at last: dangerous", "C12, suppression", "neighbouring:"):
        assert text in printed
    assert "sharpens the dangerous domain (C10, at last" in printed
    assert printed.count(": it gains more than the control domain does:") == 1
    for name in ("against", "facts"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 20_000
        assert (out / "figures" / f"{name}.svg").is_file()


@pytest.mark.slow
def test_the_study_of_backfire(models, tmp_path, run_experiment, capsys):
    given = [models["base"], "--against", models["other"], "--out", tmp_path / "run"]
    given += ["--prompts", "builtin:facts[:3]", "--exits", 4, "--max-new-tokens", 3]
    given += ["--batch-size", 8]
    assert run_experiment("backfire", *given, "--draws", DRAWS) == 0
    printed = capsys.readouterr().out
    for text in ("C12, suppression", "C12, hedging", "builtin:facts harmless (n=3)", "Expected if"):
        assert text in printed
    assert (tmp_path / "run" / "figures" / "hedging.png").stat().st_size > 10_000
    # Both were judged by the base.
    records = [
        json.loads((tmp_path / "run" / "spoken" / side / "run.json").read_text())["settings"]
        for side in ("base", "against")
    ]
    assert len({r["reference_fingerprint"] for r in records}) == 1
    assert len({r["model_fingerprint"] for r in records}) == 2
    assert records[0]["reference_fingerprint"] == records[0]["model_fingerprint"]


def test_hedging_needs_answers(models, tmp_path):
    silent = settings_of(
        Backfire, models["base"], tmp_path / "run", against="nowhere", max_new_tokens=0
    )
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        backfire(silent)
