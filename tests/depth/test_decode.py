"""Every exit speaks: tokens by a slow twin, any staircase and split, attention in parts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import some_now, spoken_cases
from slow_decode import slow_twin, spoken
from tiny import NEW_TOKENS, VOCAB, hf_tensors, model_of, prompts, raw_config

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cpu.argmax import argmax
from jaxdepth.depth import decode as engine
from jaxdepth.depth.generation import split
from jaxdepth.depth.lanes import Segment, memory, plan_segments
from jaxdepth.depth.sampling import Sampling, filter_logits
from jaxdepth.model.attention import attend, attend_part, merge_parts
from jaxdepth.model.cache import CacheSlice, attend_lane, attend_prefix, attend_prompt
from jaxdepth.model.config import ModelConfig

pytestmark = pytest.mark.usefixtures("quick_programs")
CASES = spoken_cases()
T = NEW_TOKENS


@pytest.mark.parametrize("name", some_now(CASES, 6))
def test_greedy_tokens_equal_the_slow_twin_and_hugging_faces(name, golden):
    model = model_of(CASES[name])
    tokens, lengths = prompts()
    actual = jaxdepth.generate(model, tokens, lengths, [1, 2, 3, 4], T)
    assert actual.tokens.shape == (3, 4, T)
    for b, e in itertools.product(range(3), range(4)):
        assert spoken(actual, b, e) == slow_twin(model, tokens[b], lengths[b], e + 1, T)
    # What Hugging Face's `generate` said there, made by tools/make_golden.py.
    assert np.array_equal(actual.tokens, golden("tiny_tokens.npz")[name])


@pytest.fixture(scope="module")
def model():
    return model_of(raw_config(sliding_window=16))


@pytest.fixture(scope="module")
def greedy(model):
    return jaxdepth.generate(model, *prompts(), [1, 2, 3, 4], T)


def test_lanes_end_early_and_apart(model, greedy):
    tokens, lengths = prompts()
    stops = (int(greedy.tokens[0, 3, 2]), int(greedy.tokens[1, 0, 5]))
    actual = jaxdepth.generate(model, tokens, lengths, [1, 2, 3, 4], T, stop_tokens=stops)
    for b, e in itertools.product(range(3), range(4)):
        expected = slow_twin(model, tokens[b], lengths[b], e + 1, T, stops)
        assert spoken(actual, b, e) == expected
        assert (actual.tokens[b, e, len(expected) :] == 0).all()
    assert len(set(actual.lengths.ravel().tolist())) > 1


def test_the_loop_ends_with_the_last_lane(model):
    every_token = tuple(range(VOCAB))
    actual = jaxdepth.generate(model, *prompts(), [2, 4], 100, stop_tokens=every_token)
    assert (actual.lengths == 1).all()


def test_any_staircase_gives_the_same_tokens(model, greedy):
    for segments in (1, 2, 3, 4):
        actual = jaxdepth.generate(model, *prompts(), [1, 2, 3, 4], T, segments=segments)
        assert np.array_equal(actual.tokens, greedy.tokens), segments


def test_any_mix_of_exits_gives_the_same_tokens(model, greedy):
    for exits in ([4], [1], [3, 1], [2, 2, 4], [4, 3, 2, 1]):
        actual = jaxdepth.generate(model, *prompts(), exits, T)
        for e, exit in enumerate(exits):
            assert np.array_equal(actual.tokens[:, e], greedy.tokens[:, exit - 1]), exits


def test_any_split_gives_the_same_tokens(model, greedy):
    tokens, lengths = prompts()
    for b in range(3):
        one = jaxdepth.generate(model, tokens[b : b + 1], lengths[b : b + 1], [1, 2, 3, 4], T)
        assert np.array_equal(one.tokens[0], greedy.tokens[b])
    sampling = Sampling(temperature=1.0, top_k=20, top_p=0.9)
    whole = jaxdepth.generate(model, tokens, lengths, [1, 4], 6, samples=3, sampling=sampling)
    assert whole.tokens.shape == (3, 2, 3, 6)
    plan = plan_segments([1, 4])
    one_lane = memory(model.config, plan, 1, 64, 6, 1, 4).total
    deepest = memory(model.config, plan_segments([4]), 1, 64, 6, 1, 4).total
    assert deepest < one_lane
    for budget in (one_lane * 3, one_lane, deepest):
        split = jaxdepth.generate(
            model, tokens, lengths, [1, 4], 6, samples=3, sampling=sampling, memory_budget=budget
        )
        assert np.array_equal(split.tokens, whole.tokens), budget
        assert np.array_equal(split.lengths, whole.lengths), budget
    with pytest.raises(InputError, match="memory budget is 100"):
        jaxdepth.generate(model, tokens, lengths, [1, 4], 6, memory_budget=100)


def test_batches_fit_the_budget(model):
    for budget in (95_000, 150_000, 400_000):

        def bytes_of(prompts, part, samples):
            return memory(model.config, plan_segments(part), prompts, 64, 6, samples, 4).total

        groups = split(bytes_of, [1, 2, 3, 4], 3, 5, budget)
        lanes = [(b, e, m) for g in groups for b in g.rows for e in g.exits for m in g.samples]
        assert sorted(lanes) == list(itertools.product(range(3), range(4), range(5)))
        for rows, full, part, chosen in groups:
            assert set(full) == set(rows)
            assert bytes_of(len(full), [p + 1 for p in part], len(chosen)) <= budget


def test_draws_depend_on_the_lane_alone(model):
    tokens, lengths = prompts()
    sampling = Sampling(temperature=1.5)
    whole = jaxdepth.generate(
        model, tokens, lengths, [1, 3, 4], 8, samples=2, sampling=sampling, seeds_B=[7, 8, 9]
    )
    alone = jaxdepth.generate(
        model, tokens[2:], lengths[2:], [3], 8, samples=1, sampling=sampling, seeds_B=[9]
    )
    assert np.array_equal(alone.tokens[0, 0, 0], whole.tokens[2, 1, 0])
    assert not np.array_equal(whole.tokens[2, 1, 0], whole.tokens[2, 1, 1])
    again = jaxdepth.generate(
        model, tokens, lengths, [1, 3, 4], 8, samples=2, sampling=sampling, seeds_B=[7, 8, 10]
    )
    assert np.array_equal(again.tokens[:2], whole.tokens[:2])
    assert not np.array_equal(again.tokens[2], whole.tokens[2])


def test_draws_follow_the_distribution(model):
    tokens, lengths = prompts()
    actual = jaxdepth.generate(
        model, tokens[2:], lengths[2:], [4], 1, samples=4000, sampling=Sampling(temperature=0.7)
    )
    logits = np.asarray(jaxdepth.exit_logits(model, tokens[2:], lengths[2:], 4))[0] / 0.7
    p = np.exp(logits - logits.max())
    p /= p.sum()
    counts = np.bincount(actual.tokens.ravel(), minlength=VOCAB)
    assert np.abs(counts / 4000 - p).max() < 5 * np.sqrt(p.max() / 4000)


@pytest.mark.parametrize("k", [None, 1, 5, 200])
@pytest.mark.parametrize("p", [None, 0.01, 0.5, 0.9, 1.0])
def test_filter_equals_a_loop(k, p):
    for seed in range(3):
        logits = np.random.default_rng(seed).standard_normal(40).astype(np.float32) * 3
        kept = sorted(range(40), key=lambda i: -logits[i])[: k or 40]
        if p is not None:
            weights = np.exp(logits[kept].astype(np.float64))
            weights /= weights.sum()
            mass = np.concatenate([[0], np.cumsum(weights)[:-1]])
            kept = [i for i, before in zip(kept, mass, strict=True) if p == 1 or before < p - 1e-6]
        actual = np.asarray(filter_logits(jnp.asarray(logits), Sampling(1.0, k, p)))
        assert set(np.flatnonzero(np.isfinite(actual))) == set(kept)


def test_greedy_is_the_limit_of_top_k_1(model, greedy):
    actual = jaxdepth.generate(
        model, *prompts(), [1, 2, 3, 4], T, sampling=Sampling(temperature=1.0, top_k=1)
    )
    assert np.array_equal(actual.tokens, greedy.tokens)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exits": []}, "no exits"),
        ({"exits": [0]}, "exit 0"),
        ({"exits": [1, 5]}, "exit 5"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 193}, "256 that this model takes"),
        ({"samples": 0}, "samples"),
        ({"segments": 5}, "5 segments"),
        ({"segments": 0}, "0 segments"),
    ],
    ids=str,
)
def test_bad_arguments(model, changes, says):
    with pytest.raises(InputError, match=says):
        jaxdepth.generate(model, *prompts(), **{"exits": [1], "max_new_tokens": 2} | changes)


@pytest.mark.parametrize("size", [1, 7, 96, 256, 512, 768])
def test_argmax_is_the_first_largest(size):
    logits = np.random.default_rng(size).integers(0, 5, (50, size)).astype(np.float32)
    logits[4] = -np.inf
    assert np.array_equal(argmax(jnp.asarray(logits)), jnp.argmax(logits, axis=-1))


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}], ids=str
)
def test_bad_sampling(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Sampling(**bad)


def test_smollm2_greedy_tokens_equal_hugging_faces(smollm2, golden):
    model, _ = smollm2
    gold = golden("smollm2.npz")
    n = gold["greedy"].shape[1]
    exits = gold["exits"].tolist()
    actual = jaxdepth.generate(model, gold["tokens"][:1], gold["lengths"][:1], exits, n)
    assert actual.tokens[0].tolist() == gold["greedy"].tolist()


@pytest.mark.live
@pytest.mark.parametrize("name", list(CASES)[::3])
def test_live_generate(name, torch):
    """Hugging Face's own `generate`, with its cache, `num_hidden_layers` set to the exit."""
    from reference import hf_generate, hf_model

    raw = CASES[name]
    hf = hf_model(raw, hf_tensors(ModelConfig.from_hf(raw)))
    expected = hf_generate(hf, *prompts(), [1, 2, 3, 4], T)
    actual = jaxdepth.generate(model_of(raw), *prompts(), [1, 2, 3, 4], T)
    assert np.array_equal(actual.tokens, expected)


def test_lists_with_one_plan_share_one_program(model):
    plan = plan_segments([4, 3, 2], 1)
    assert plan == plan_segments([4, 1, 1], 1) == (Segment(0, 4, 3),)
    jaxdepth.generate(model, *prompts(), [4, 3, 2], 3, segments=1)
    before = engine.decode._cache_size(), engine.prefill._cache_size()
    for exits in ([4, 1, 1], [1, 2, 4], [4, 4, 4]):
        jaxdepth.generate(model, *prompts(), exits, 3, segments=1)
    assert (engine.decode._cache_size(), engine.prefill._cache_size()) == before


# Merging


@pytest.mark.parametrize("cut", [0, 1, 5, 9, 10])
@pytest.mark.parametrize("window", [None, 4])
def test_merged_parts_equal_whole_attention(cut, window):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 10, 3, 8)).astype(np.float32) * 4 for _ in "qkv")
    places = jnp.arange(10)
    away = places[:, None] - places
    mask = (away >= 0) & (away < (window or 10))
    q, k, v = (jnp.asarray(x) for x in (q, k, v))
    whole = attend(q, k, v, window)
    heads_first = [x.swapaxes(1, 2) for x in (q, k, v)]
    q, k, v = heads_first
    first = attend_part(q, k[..., :cut, :], v[..., :cut, :], mask[:, :cut]) if cut else None
    rest = attend_part(q, k[..., cut:, :], v[..., cut:, :], mask[:, cut:]) if cut < 10 else None
    parts = [p for p in (first, rest) if p is not None]
    # a row that sees nothing of a part takes nothing from it
    assert np.abs(merge_parts(*parts).swapaxes(1, 2) - whole).max() < 1e-5


@pytest.mark.parametrize("slots", [3, 4, 10, 12])
@pytest.mark.parametrize("window", [None, 5])
def test_a_cache_read_in_pieces_is_the_cache(monkeypatch, slots, window):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    X, B, K, G, H = 4, 2, 2, 3, 8
    q, layer = normal(X, B, K, G, H), jnp.int32(1)
    prompt, prefix, lane = (
        CacheSlice(normal(3, *shape, K, slots, H), normal(3, *shape, K, slots, H), layer)
        for shape in [(B,), (2, B), (X, B)]
    )
    lengths_B, cuts_XB = jnp.array([1, slots]), jnp.asarray(rng.integers(0, slots + 1, (X, B)))
    step = jnp.int32(slots - 1)

    def read():
        return [
            attend_prompt(q, prompt, lengths_B, (lengths_B + step)[None], window),
            attend_prefix(q, prefix, cuts_XB, jnp.int32(1), window),
            attend_lane(q, lane, step, window),
        ]

    whole = read()
    monkeypatch.setattr("jaxdepth.cpu.cache_pieces.PIECE_BYTES", 1)
    monkeypatch.setattr("jaxdepth.cpu.cache_pieces.PIECE_SLOTS", 4)
    pieces = read()
    assert ("scan" in str(jax.make_jaxpr(read)())) == (slots > 4)
    for part, other in zip(whole, pieces, strict=True):
        for a, b in zip(part, other, strict=True):
            assert np.array_equal(np.isinf(a), np.isinf(b))
            assert np.allclose(a, b, atol=1e-5)


def test_tokens_of_caches_read_in_pieces(monkeypatch):
    model = model_of(raw_config())
    whole = jaxdepth.generate(model, *prompts(), [4, 3, 2], 9)
    monkeypatch.setattr("jaxdepth.cpu.cache_pieces.PIECE_BYTES", 1)
    monkeypatch.setattr("jaxdepth.cpu.cache_pieces.PIECE_SLOTS", 4)
    pieces = jaxdepth.generate(model, *prompts(), [4, 3, 2], 10)  # a program of its own
    assert np.array_equal(whole.tokens, pieces.tokens[..., :9])


def test_merging_survives_large_scores():
    q = jnp.full((1, 1, 8), 100.0)
    k = jnp.stack([jnp.full(8, 100.0), jnp.full(8, -100.0)])[None]
    v = jnp.array([[[1.0] * 8, [2.0] * 8]])
    seen = jnp.array(True)
    parts = [attend_part(q, k[:, i : i + 1], v[:, i : i + 1], seen) for i in range(2)]
    assert np.allclose(merge_parts(*parts), 1.0)
