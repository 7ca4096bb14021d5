"""Drafting and verifying: full depth's text whatever is drafted, and counts by a slow twin."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import some_now, spoken_cases
from tiny import LENGTH, NEW_TOKENS, hf_tensors, leaves_of, model_of, prompts, raw_config

import jaxdepth
from jaxdepth import InputError
from jaxdepth.depth.decode import prefill
from jaxdepth.depth.speculative import (
    Speculation,
    _bytes,
    _run_layers,
    run_rounds,
    sequential_layers,
    speculate,
)
from jaxdepth.model.cache import LaneCache, PromptCache
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral

pytestmark = pytest.mark.usefixtures("quick_programs")

CASES = spoken_cases()
DEPTHS = [1, 2, 3]
T = 19  # 18 tokens after the first: whole rounds of 2 and of 6, but not of 4


def quiet_model(raw: dict, share: float, above: int = 1) -> Mistral:
    """A model whose layers above some add only a share of what they would: drafts often agree."""
    config = ModelConfig.from_hf(raw)
    leaves = leaves_of(config, hf_tensors(config))
    for name in ("layers.o", "layers.down"):
        leaves[name][above:] *= share
    return Mistral(config, leaves)


@pytest.mark.parametrize("name", some_now(CASES))
def test_the_text_is_full_depths(name, golden):
    actual = speculate(model_of(CASES[name]), *prompts(), DEPTHS, NEW_TOKENS)
    # What Hugging Face's `generate` said at full depth, which is what ours says: test_decode.
    assert np.array_equal(actual.tokens, golden("tiny_tokens.npz")[name][:, [3, 3, 3]])
    assert (actual.lengths == NEW_TOKENS).all()
    # Few of those drafts are accepted; where many are, depths must agree all the same.
    quiet = speculate(quiet_model(CASES[name], 0.3), *prompts(), DEPTHS, NEW_TOKENS)
    assert quiet.accepted.sum() > 40
    assert len(set(quiet.accepted.ravel().tolist())) > 1
    assert (quiet.tokens == quiet.tokens[:, :1]).all()


def twin_of(model: Mistral):
    """The slow twin: a prompt and a depth at a time, every token from scratch, no cache."""
    tokens_BS, lengths_B = prompts()
    L = model.config.num_hidden_layers

    @functools.cache
    def says(b: int, text: tuple[int, ...], exit: int) -> int:
        end = lengths_B[b] + len(text)
        ids = np.zeros((1, LENGTH + T), np.int32)  # one padded shape, one program
        ids[0, : lengths_B[b]] = tokens_BS[b, : lengths_B[b]]
        ids[0, lengths_B[b] : end] = text
        return int(jaxdepth.exit_logits(model, ids, np.array([end]), exit)[0].argmax())

    def twin(b: int, depth: int, draft_tokens: int, stops=()):
        """Text, rounds, drafted, accepted, and what happened to end tokens."""
        text, events = (says(b, (), L),), set()
        rounds = drafted = accepted = 0
        while len(text) < T and text[-1] not in stops:
            draft = ()
            while len(draft) < min(draft_tokens, T - len(text) - 1):
                draft += (says(b, text + draft, depth),)
                if draft[-1] in stops:
                    break
            agreed = 0
            while agreed < len(draft) and draft[agreed] == says(b, text + draft[:agreed], L):
                agreed += 1
            rounds, drafted, accepted = rounds + 1, drafted + len(draft), accepted + agreed
            if agreed < len(draft) and draft[-1] in stops:
                events.add("drafted in vain")
            text += draft[:agreed]
            if text[-1] in stops:
                events.add("drafted and accepted")
            else:
                text += (says(b, text, L),)
                if text[-1] in stops:
                    events.add("full depth's own")
        return list(text), rounds, drafted, accepted, events

    return twin


@pytest.fixture(scope="module")
def model():
    """Its window ends inside a round of 6 tokens, and its drafts are accepted now and then."""
    return quiet_model(raw_config(sliding_window=4), 0.3)


@pytest.fixture(scope="module")
def full(model):
    """What `generate` says at full depth, a row for every draft depth."""
    decoded = jaxdepth.generate(model, *prompts(), [4], T)
    return decoded.tokens[:, [0, 0, 0]]


@pytest.fixture(scope="module")
def twin(model):
    return twin_of(model)


def assert_equals_the_twin(actual: Speculation, twin, draft_tokens: int, stops=()) -> set[str]:
    events = set()
    for b, e in itertools.product(range(3), range(len(DEPTHS))):
        text, *counts, seen = twin(b, DEPTHS[e], draft_tokens, stops)
        assert actual.tokens[b, e].tolist() == text + [0] * (T - len(text))
        assert actual.lengths[b, e] == len(text)
        assert [actual.rounds[b, e], actual.drafted[b, e], actual.accepted[b, e]] == counts
        events |= seen
    return events


@pytest.mark.parametrize("draft_tokens", [1, 3, 5])
def test_text_and_counts_equal_the_slow_twin(model, twin, full, draft_tokens):
    actual = speculate(model, *prompts(), DEPTHS, T, draft_tokens=draft_tokens)
    assert np.array_equal(actual.tokens, full)
    assert (actual.lengths == T).all()
    assert_equals_the_twin(actual, twin, draft_tokens)
    assert 0 < actual.accepted.sum() < actual.drafted.sum()


def test_lanes_end_early_and_apart(model, twin, full):
    events = set()
    for stops in zip(*full[:, 0, ::4].tolist(), strict=True):
        actual = speculate(model, *prompts(), DEPTHS, T, draft_tokens=3, stop_tokens=stops)
        ended = jaxdepth.generate(model, *prompts(), [4], T, stop_tokens=stops)
        assert np.array_equal(actual.tokens, ended.tokens[:, [0, 0, 0]])
        assert np.array_equal(actual.lengths, ended.lengths[:, [0, 0, 0]])
        events |= assert_equals_the_twin(actual, twin, 3, stops)
    assert events == {"drafted in vain", "drafted and accepted", "full depth's own"}


def test_a_first_token_may_be_all(model, full):
    stops = tuple(full[:, 0, 0].tolist())
    actual = speculate(model, *prompts(), DEPTHS, T, draft_tokens=3, stop_tokens=stops)
    assert (actual.lengths == 1).all()
    assert np.array_equal(actual.tokens[..., 0], full[..., 0])
    assert not actual.tokens[..., 1:].any()
    assert not np.any([actual.rounds, actual.drafted, actual.accepted])


def test_layers_that_do_nothing_accept_every_draft():
    model = quiet_model(raw_config(sliding_window=4), 0.0)
    for draft_tokens, rounds in ((1, 9), (3, 5), (5, 3)):
        actual = speculate(model, *prompts(), DEPTHS, T, draft_tokens=draft_tokens)
        assert (actual.rounds == rounds).all()  # 18 tokens, up to draft_tokens + 1 a round
        assert (actual.accepted == T - 1 - rounds).all()
        assert (actual.drafted == T - 1 - rounds).all()


def test_any_split_gives_the_same(model):
    whole = speculate(model, *prompts(), DEPTHS, T, draft_tokens=3)
    lane, two = (_bytes(model, n, b, LENGTH, T, 3) for n, b in ((1, 1), (3, 2)))
    for budget in (two, lane):  # two prompts and then one; every lane apart
        split = speculate(model, *prompts(), DEPTHS, T, draft_tokens=3, memory_budget=budget)
        for actual, expected in zip(split, whole, strict=True):
            assert np.array_equal(actual, expected), budget
    with pytest.raises(InputError, match=f"one lane needs {lane:,} bytes"):
        speculate(model, *prompts(), DEPTHS, T, draft_tokens=3, memory_budget=lane - 1)


def test_one_program_serves_all_depths(model):
    whole = speculate(model, *prompts(), DEPTHS, T, draft_tokens=3)
    before = run_rounds._cache_size(), prefill._cache_size()
    for depths in ([3, 1, 2], [2, 2, 2], np.array([1, 1, 3])):
        actual = speculate(model, *prompts(), depths, T, draft_tokens=3)
        for e, depth in enumerate(depths):
            for own, of_whole in zip(actual, whole, strict=True):
                assert np.array_equal(own[:, e], of_whole[:, depth - 1]), depths
    assert (run_rounds._cache_size(), prefill._cache_size()) == before


def test_a_lane_runs_its_own_layers_alone(model):
    """Layers that it does not run may hold anything: nothing of them is seen or written."""
    poison = jax.tree.map(jnp.asarray, model)  # modules of its own
    poison.layers = jax.tree.map(lambda leaf: leaf.at[::3].set(jnp.nan), poison.layers)
    B, X, slots, K, H = 1, 2, 5, 2, 16
    prompt = PromptCache(*(jnp.ones((4, B, K, 3, H)),) * 2)
    lanes = LaneCache(*(jnp.ones((4, X, B, K, slots, H)),) * 2)
    first, last = jnp.array([1, 1, 2, 2]), jnp.array([3, 3, 3, 3])
    h_YBD = jax.random.normal(jax.random.key(0), (4, B, 64))
    slots_YB = jnp.array([0, 1, 2, 3])[:, None]
    after, cache = jax.jit(_run_layers)(
        poison, prompt, lanes, h_YBD, slots_YB, jnp.array([3]), first, last
    )
    assert np.isfinite(after).all()
    written = np.argwhere((np.asarray(cache.v_LXBKTH) != 1).any((2, 3, 5)))
    assert written.tolist() == [[1, 0, 0], [1, 0, 1], [2, 0, 0], [2, 0, 1], [2, 1, 2], [2, 1, 3]]


def test_the_planned_bytes_are_what_xla_reports(optimised):
    model, B, S, N = model_of(raw_config(vocab_size=4096)), 8, 64, 4
    c = model.config
    cache = jnp.zeros((c.num_hidden_layers, B, c.num_key_value_heads, S, c.head_dim))
    stops, last_BD = jnp.zeros(1, jnp.int32), jnp.zeros((B, c.hidden_size))
    lowered = run_rounds.lower(
        model,
        PromptCache(cache, cache),
        last_BD,
        jnp.full(B, S),
        jnp.array(DEPTHS),
        stops,
        max_new_tokens=64,
        draft_tokens=N,
    )
    report = lowered.compile().memory_analysis()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    held = report.temp_size_in_bytes + report.argument_size_in_bytes - weights
    assert held == pytest.approx(_bytes(model, len(DEPTHS), B, S, 64, N), rel=0.15)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depths": []}, "no draft depths"),
        ({"depths": [0]}, "draft depth 0 is out of range"),
        ({"depths": [1, 4]}, "draft depth 4 is out of range: this model has draft depths 1 to 3"),
        ({"depths": [1.5]}, "not a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"draft_tokens": 0}, "draft_tokens is 0"),
        ({"max_new_tokens": 193}, "256 that this model takes"),
        ({"lengths_B": np.array([64, 37, 0])}, "lengths"),
        ({"memory_budget": 100}, "memory budget is 100"),
    ],
    ids=str,
)
def test_bad_arguments(model, changes, says):
    tokens, lengths = prompts()
    good = {"tokens_BS": tokens, "lengths_B": lengths, "depths": [1], "max_new_tokens": 2}
    with pytest.raises(InputError, match=says) as error:
        speculate(model, **good | changes)
    assert "\n" not in str(error.value)


def test_passes_by_hand():
    # Of 8 layers 2 and 6 draft. One prompt: lanes of 3 rounds with 4 + 4 + 1 and 4 + 2 + 0 drafted.
    rounds, drafted = np.array([[3, 3]]), np.array([[9, 6]])
    # One by one through the first: (5 + 5 + 2) * 2 and (5 + 3 + 1) * 6; then 3 * 6 and 3 * 2.
    assert sequential_layers([2, 6], rounds, drafted, 8).tolist() == [[42, 60]]
    # Rounds that draft nothing are steps of full depth.
    nothing = np.zeros((1, 2), int)
    assert sequential_layers([2, 6], rounds, nothing, 8).tolist() == [[24, 24]]


@pytest.mark.slow
def test_smollm2_says_what_full_depth_says(smollm2, golden):
    model, _ = smollm2
    gold = golden("smollm2.npz")
    prompt_args = gold["tokens"][:1], gold["lengths"][:1]
    full = jaxdepth.generate(model, *prompt_args, [model.config.num_hidden_layers], 12)
    actual = speculate(model, *prompt_args, [15, 24, 28], 12)
    assert np.array_equal(actual.tokens, full.tokens[:, [0, 0, 0]])
    assert np.array_equal(actual.lengths, full.lengths[:, [0, 0, 0]])
    assert actual.accepted[0, 2] > 0
