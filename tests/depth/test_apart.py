"""Layers apart, each matrix in an array of its own, as GPUs have them: every loop says the same."""

import jax
import numpy as np
import pytest
from parity_grid import some_now, spoken_cases
from tiny import NEW_TOKENS, hf_tensors, model_of, prompts, raw_config, write_folder

import jaxdepth
from jaxdepth import InputError
from jaxdepth.depth.continuation import continuation_logprobs
from jaxdepth.depth.dynamic import generate_dynamic
from jaxdepth.depth.policies import Caching, ExitRule, Policy
from jaxdepth.depth.speculative import speculate
from jaxdepth.model.apart import Apart, matrix_of_layer, take_apart
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.int8 import to_int8
from jaxdepth.model.mistral import with_layers_apart
from jaxdepth.model.parameters import MATRICES
from jaxdepth.model.steer import steer
from jaxdepth.model.tuned import Form, attach, init_params, merge
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import model_tensor
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map

pytestmark = pytest.mark.usefixtures("quick_programs")
CASES = spoken_cases()
EVERY = [1, 2, 3, 4]
NAME = "smollm3-window"  # layers differ in their windows and in whether they rotate


@pytest.fixture(scope="module")
def models():
    stacked = model_of(CASES[NAME])
    return stacked, with_layers_apart(stacked)


@pytest.mark.parametrize("name", some_now({NAME: {}} | CASES, 1))
def test_every_exit_says_what_hugging_face_does(name, golden):
    model = with_layers_apart(model_of(CASES[name]))
    actual = jaxdepth.generate(model, *prompts(), EVERY, NEW_TOKENS)
    assert np.array_equal(actual.tokens, golden("tiny_tokens.npz")[name])


def test_dynamic_decoding_and_speculation_say_what_hugging_face_does(models, golden):
    expected = golden("tiny_tokens.npz")[NAME]
    _, apart = models
    rules = [ExitRule(Policy.FIXED, d, None, Caching.LATE) for d in (2, 4)]
    actual = generate_dynamic(apart, *prompts(), rules, EVERY, NEW_TOKENS)
    assert np.array_equal(actual.tokens[:, :, 0], expected[:, [1, 3]])
    drafted = speculate(apart, *prompts(), [1, 3], NEW_TOKENS)
    assert np.array_equal(drafted.tokens, expected[:, [3, 3]])


def test_whole_sequences_give_the_same_numbers(models):
    direction = np.random.default_rng(5).standard_normal(64)
    of_exits, scores = [], []
    for model in models:
        steered = steer(model, direction, (1, 3), "add")
        at_exits = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0))
        of_exits.append(at_exits(steered, *prompts(), np.array(EVERY)))
        scores.append(continuation_logprobs(model, [[1, 2]], [[3, 4, 5]], [0])[0])
    np.testing.assert_allclose(*of_exits, atol=1e-5)
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_arrays_are_those_of_the_layers(models):
    stacked, apart = models
    assert not stacked.is_apart
    assert apart.is_apart
    for name in MATRICES:
        stack = getattr(stacked.layers, name)[...]
        for i, expected in enumerate(stack):
            assert np.array_equal(matrix_of_layer(apart.layers, name, i), expected)
    assert apart.layers.down.shape == stacked.layers.down.shape
    assert apart.layers.gate is None  # it is joined with up
    for tensor in tensor_map(apart.config, HF_NAMES):
        assert np.array_equal(*(model_tensor(model, tensor) for model in models))
    integers = to_int8(stacked.layers.up[...])
    small = take_apart(integers)
    assert small.shape == integers.shape
    for i, matrix in enumerate(small.matrices):
        assert np.array_equal(matrix.values[...], integers.values[...][i])
        assert np.array_equal(matrix.scale[...], integers.scale[...][i])


def test_training_wants_them_stacked(models):
    stacked, apart = models
    form = Form(layers=(0,), leaves=("up",), rank=2)
    params = init_params(stacked, form, 0, jax.random.key(0))
    for combine in (attach, merge):
        with pytest.raises(InputError, match="load it with apart=False"):
            combine(apart, params, form)


@pytest.mark.parametrize("int8", [False, True])
def test_loading_places_them_so(tmp_path, int8):
    raw = raw_config()
    convert(write_folder(tmp_path / "a", raw, hf_tensors(ModelConfig.from_hf(raw))), tmp_path / "b")
    stacked, _ = jaxdepth.load(tmp_path / "b", int8=int8)
    apart, _ = jaxdepth.load(tmp_path / "b", int8=int8, apart=True)
    assert isinstance(apart.layers.down, Apart)
    said = [jaxdepth.generate(m, *prompts(), [2, 4], 3).tokens for m in (stacked, apart)]
    assert np.array_equal(*said)
