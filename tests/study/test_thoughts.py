"""Probes along a thought: scores by plain code, known truth, and runs that resume."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from studies import settings_of, words_of
from thinker import BITS, CLOSE, COMPLY, REFUSE, bit, parity_prompts, state, thinker

import jaxdepth
from jaxdepth.probing.along import scores_along
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.folds import cross_fit, make_folds
from jaxdepth.probing.harm_probe import read_harm_probes, text_digest
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.protocol import instruct, read_protocol, resolve_markers
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.probes.activations import read_stream
from jaxdepth.study.probes.figures import draw_probes
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.summary import findings
from jaxdepth.study.probes.thoughts import PLACES, POINTS, at_places
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.weights.checkpoint import read_manifest

pytestmark = pytest.mark.usefixtures("quick_programs")

LIMIT, STRENGTH, THOUGHT = 12, 1e-2, 6


@pytest.fixture(scope="module")
def spec(tiny_path, tmp_path_factory) -> str:
    _, tokenizer = jaxdepth.load(tiny_path)
    words = json.dumps(list(words_of(PromptEncoder(tokenizer))))
    file = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    file.write_text(
        f'instruction = "Think."\nagain = "Again."\nopen = "I"\nclose = "\\nVerdict:"\n'
        f"verdicts = [{words}]\nthought_tokens = {THOUGHT}\nanswer_tokens = 0\n"
    )
    return str(file)


@pytest.fixture(scope="module")
def thought(tiny_path, spec, tmp_path_factory):
    lean = {"cuts": (), "swap": False, "force": False, "cost_rounds": 0, "exits": "2,4"}
    out = tmp_path_factory.mktemp("decide") / "run"
    how = {"limit": LIMIT, "protocol": spec, "temperature": 1.0}
    settings = settings_of(Decide, tiny_path, out, **how, **lean)
    return run_decide(settings)


def probe_settings(tiny_path, thought, out) -> Probe:
    small = {"positions": ("last",), "folds": 3, "draws": 40, "strengths": (STRENGTH,)}
    return settings_of(Probe, tiny_path, out, run=thought.path, limit=LIMIT, **small)


@pytest.fixture(scope="module")
def probed(tiny_path, thought, tmp_path_factory):
    return probe(probe_settings(tiny_path, thought, tmp_path_factory.mktemp("probe") / "run"))


def sequences(tiny_path, thought, spec) -> dict[str, tuple[list[int], int, int]]:
    """Every prompt with its thought and verdict: ids, the length of the prompt, of the thought."""
    _, tokenizer = jaxdepth.load(tiny_path)
    encoder, protocol = PromptEncoder(tokenizer), read_protocol(spec)
    markers = resolve_markers(protocol, encoder, ())
    texts = {r["prompt_id"]: r for r in rows(thought, "texts") if r["exit"] == 4}
    verdicts = {r["prompt_id"]: r["verdict"] for r in rows(thought, "verdicts") if r["exit"] == 4}
    sequences = {}
    for p in rows(thought, "prompts"):
        text = instruct(protocol.instruction, protocol.close, markers.words, p["text"])
        before = [*encoder.encode(text), *markers.open]
        ids = texts[p["prompt_id"]]["thought_ids"]
        verdict = markers.verdicts[["refuse", "partial", "comply"].index(verdicts[p["prompt_id"]])]
        tokens = [*before, *ids, *markers.close, verdict]
        sequences[p["prompt_id"]] = tokens, len(before), len(ids)
    return sequences


def rows(run, table) -> list[dict]:
    return read_table(run.path, table).to_pylist()


def test_probes_that_guard_exits_by_scikit_learn(tiny_path, probed):
    """The mean of the folds' probes, calibrated by a logistic fit to scores out of fold."""
    prompts = rows(probed, "prompts")
    base = read_manifest(tiny_path)["fingerprint"]
    saved = read_harm_probes(probed.path / "probes.safetensors", base)
    assert saved.prompts == {text_digest(p["text"]) for p in prompts}
    y = np.array([p["label"] == "harmful" for p in prompts])
    x_JND = read_stream(probed.path, "own", 0).astype(np.float64)
    fold = make_folds([p["pair_id"] for p in prompts], y, 3, 0)
    fitted = cross_fit(x_JND, y, fold, (STRENGTH,))
    for layer in range(1, 5):
        scores = fitted.score_GN[layer].astype(np.float64)
        middle, scale = scores.mean(), scores.std()
        platt = LogisticRegression(C=1.0, tol=1e-10).fit((scores[:, None] - middle) / scale, y)
        weights, bias = fitted.weights_GFD[layer].mean(axis=0), fitted.bias_GF[layer].mean()
        raw = x_JND[layer] @ weights + bias
        expected = platt.coef_[0, 0] * (raw - middle) / scale + platt.intercept_[0]
        w, centre, b = (np.float64(a[layer]) for a in saved.probes["content"])
        np.testing.assert_allclose((x_JND[layer] - centre) @ w + b, expected, atol=1e-3)


def test_scores_along_a_thought_by_plain_code(tiny_path, thought, spec, probed):
    """Streams of whole sequences, scikit-learn's fits, and a product for each prompt's fold."""
    model, _ = jaxdepth.load(tiny_path)
    by_prompt = sequences(tiny_path, thought, spec)
    longest = max(len(ids) for ids, *_ in by_prompt.values())
    stream = {}
    for name, (ids, *_) in by_prompt.items():
        padded = np.array([ids + [0] * (longest - len(ids))])
        places = np.minimum(np.arange(longest), len(ids) - 1)[None]
        h_1SJD = residuals(model, padded, np.array([len(ids)]), places)
        stream[name] = np.asarray(h_1SJD[0, : len(ids)], np.float64)  # (S, J, D)
    prompts = rows(thought, "prompts")
    names = [p["prompt_id"] for p in prompts]
    y = np.array([p["label"] == "harmful" for p in prompts])
    fold = make_folds([p["pair_id"] for p in prompts], y, 3, 0)
    table = {
        (r["prompt_id"], r["fitted_at"], r["layer"]): r
        for r in rows(probed, "thought_scores")
        if r["target"] == "content"
    }
    assert len(table) == len(names) * 2 * 5
    for fitted_at, layer in (("opened", 3), ("closed", 1), ("closed", 4)):
        place = {n: by_prompt[n][1] - 1 if fitted_at == "opened" else -2 for n in names}
        x = np.stack([stream[n][place[n], layer] for n in names])
        for f in range(3):
            train = (fold != f) & (fold != (f + 1) % 3)
            middle, scale = x[train].mean(axis=0), np.sqrt(x[train].var(axis=0).mean())
            fit = LogisticRegression(C=STRENGTH, tol=1e-10, max_iter=10000)
            fit.fit((x[train] - middle) / scale, y[train])
            for name in np.array(names)[fold == f]:
                ids, begins, count = by_prompt[name]
                expected = fit.decision_function(
                    (stream[name][begins - 1 :, layer] - middle) / scale
                )
                row = table[name, fitted_at, layer]
                assert (row["fold"], row["thought_tokens"]) == (f, count)
                np.testing.assert_allclose(row["scores"], expected, atol=1e-3)


def test_measures_are_of_the_chosen_layer(probed):
    """AUROC at each place by ranks, the mean and the fall by their definitions."""
    chosen = {
        (r["target"], r["position"]): r["chosen_layers"]
        for r in rows(probed, "thought_probes")
        if r["probe"] == "logistic, layer chosen"
    }
    along = rows(probed, "thoughts")
    assert {r["fitted_at"] for r in along} == {"opened", "closed"}
    for fitted_at in ("opened", "closed"):
        measures = [r for r in along if (r["target"], r["fitted_at"]) == ("content", fitted_at)]
        (layer,) = {r["layer"] for r in measures}
        layers = chosen["content", fitted_at]
        assert layers.count(layer) == max(map(layers.count, layers))
        scores = [
            r for r in rows(probed, "thought_scores")
            if (r["target"], r["fitted_at"], r["layer"]) == ("content", fitted_at, layer)
            and r["thought_tokens"]
        ]  # fmt: skip
        y, fold = (np.array([r[k] for r in scores]) for k in ("positive", "fold"))
        halfway = np.array([r["scores"][round(1 + (r["thought_tokens"] - 1) / 2)] for r in scores])
        wins = pairs = 0
        for f in range(3):
            tested, ones = fold == f, y[fold == f].sum()
            rank = rankdata(halfway[tested])[y[tested]].sum() - ones * (ones + 1) / 2
            wins, pairs = wins + rank, pairs + ones * (tested.sum() - ones)
        (row,) = (r for r in measures if (r["metric"], r["place"]) == ("AUROC", "50%"))
        assert row["value"] == pytest.approx(wins / pairs)
        assert row["low"] <= row["value"] <= row["high"]
        falls = [
            np.mean(r["scores"][1 : 1 + r["thought_tokens"]]) - r["scores"][-2]
            for r in scores
            if r["positive"]
        ]
        (fall,) = (r for r in measures if r["metric"] == "fall to the verdict" and r["positive"])
        assert (fall["value"], fall["n"]) == (pytest.approx(np.mean(falls), abs=1e-5), y.sum())
    text = "\n".join(findings(probed.path))
    assert "before the first token of the thought" in text
    assert "falls from its mean over the thought" in text
    (figure,) = (path for path in draw_probes(probed.path) if path.name == "thoughts.png")
    assert figure.stat().st_size > 10_000


def test_places_along_thoughts_of_any_length():
    for count in (1, 2, 7, 11, 100):
        scores = [-1.0, *range(count), 200.0, 300.0]
        chosen = at_places(scores, count)
        assert len(chosen) == len(PLACES) == POINTS + 3
        assert chosen[:2] == [-1.0, 0]
        assert chosen[-3:] == [count - 1, 200.0, 300.0]
        assert chosen == sorted(chosen)


def test_a_stopped_run_resumes(tiny_path, thought, probed, tmp_path, monkeypatch):
    from jaxdepth.study.probes import thoughts

    score_batch, calls = thoughts._score_batch, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_batch(*args)

    settings = probe_settings(tiny_path, thought, tmp_path / "run")
    monkeypatch.setattr(thoughts, "_score_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        probe(settings)
    again = probe(settings)
    for table in ("thought_probes", "thought_scores", "thoughts"):
        resumed, whole = (read_table(run.path, table).to_pandas() for run in (again, probed))
        pd.testing.assert_frame_equal(resumed, whole)


def test_known_truth_a_verdict_that_only_the_thought_can_give():
    """A model set by hand works parity out while it thinks: no linear probe reads it before."""
    model, _ = thinker()
    tokens, _, odd = parity_prompts()
    done = np.cumsum((tokens[:, 1 : 1 + BITS] - bit(0, 0)) % 2, axis=1) % 2
    thoughts = np.array([[state(k + 1, p) for k, p in enumerate(row)] for row in done])
    ends = np.stack([np.full(len(odd), CLOSE), np.where(odd, REFUSE, COMPLY)], axis=1)
    ids = np.concatenate([tokens, thoughts, ends], axis=1)
    lengths = np.full(len(ids), ids.shape[1])
    opened, closed = BITS + 1, ids.shape[1] - 2
    x = np.asarray(residuals(model, ids, lengths, np.tile([opened, closed], (len(ids), 1))))
    fold = make_folds(range(len(odd)), odd, 4)
    before, after = (cross_fit(x[:, p, 1:].swapaxes(0, 1), odd, fold, (1.0,)) for p in (0, 1))
    assert auroc(before.score_GN, odd, fold).max() <= 0.5
    assert auroc(after.score_GN, odd, fold).min() == 1.0
    weights = np.asarray(after.weights_GFD)[:, fold].swapaxes(0, 1)[:, None]
    bias = after.bias_GF[:, fold].T[:, None]
    nothing = np.zeros((weights.shape[2], weights.shape[3]))
    pad = np.zeros((len(odd), 1, 1))  # layer 0, of which no probe was fitted
    weights = np.concatenate([np.zeros_like(weights[:, :, :1]), weights], axis=2)
    along = np.asarray(
        scores_along(
            model, ids, lengths, weights, np.concatenate([pad, bias], axis=2),
            np.concatenate([nothing[:1], nothing]),
        )
    )  # fmt: skip
    np.testing.assert_allclose(along[:, 0, 1:, closed].T, after.score_GN, atol=1e-4)
