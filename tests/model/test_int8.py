"""Matrices of 8-bit integers: what they stand for, on every path that uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import hf_tensors, prompts, raw_config, write_folder

import jaxdepth
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.int8 import Int8, to_int8
from jaxdepth.model.parameters import MATRICES
from jaxdepth.weights.convert import convert

pytestmark = pytest.mark.usefixtures("quick_programs")
RAW = raw_config()


def rounded(matrix):
    """The numbers that the integers of a float32 matrix (..., I, O) stand for, by plain numpy."""
    scale = np.abs(matrix).max(axis=-2, keepdims=True) / np.float32(127)
    return np.where(scale > 0, np.round(matrix / np.where(scale > 0, scale, 1)) * scale, 0)


def widened(model):
    """The model with float32 matrices of the same numbers as its integers."""
    for name in MATRICES:
        leaf = getattr(model.layers, name)
        assert isinstance(leaf, Int8)
        assert leaf.values[...].dtype == jnp.int8
        wide = leaf.values[...].astype(jnp.float32) * leaf.scale[...][..., None, :]
        setattr(model.layers, name, type(model.embed)(wide))
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    place = tmp_path_factory.mktemp("int8")
    tensors = hf_tensors(ModelConfig.from_hf(RAW))
    convert(write_folder(place / "source", RAW, tensors), place / "target")
    return place / "target"


def test_integers_stand_for_the_nearest_numbers():
    matrix = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
    matrix[1, :, 2] = 0
    actual = to_int8(jnp.asarray(matrix))
    numbers = np.asarray(actual.values[...]) * np.asarray(actual.scale[...])[:, None, :]
    assert np.abs(np.asarray(actual.values[...])).max(axis=1).tolist() == [
        [127] * 5,
        [127, 127, 0, 127, 127],
        [127] * 5,
    ]
    np.testing.assert_allclose(numbers, rounded(matrix), rtol=0, atol=1e-6)
    assert (np.abs(numbers - matrix) <= np.asarray(actual.scale[...])[:, None, :] / 2 + 1e-6).all()


def test_they_are_loaded_layer_by_layer_as_they_would_be_at_once(checkpoint):
    small, _ = jaxdepth.load(checkpoint, int8=True)
    plain, _ = jaxdepth.load(checkpoint)
    for name in MATRICES:
        whole = np.asarray(getattr(plain.layers, name)[...])
        leaf = getattr(small.layers, name)
        numbers = np.asarray(leaf.values[...]) * np.asarray(leaf.scale[...])[:, None, :]
        np.testing.assert_allclose(numbers, rounded(whole), rtol=0, atol=1e-6)
    for name in ("embed", "norm", "head"):
        assert np.array_equal(getattr(small, name)[...], getattr(plain, name)[...])


def test_every_exit_speaks_as_with_the_numbers_written_out(checkpoint):
    """Logits of all exits, and greedy decoding of all exits at once."""
    small, _ = jaxdepth.load(checkpoint, int8=True)
    wide = widened(jaxdepth.load(checkpoint, int8=True)[0])
    plain, _ = jaxdepth.load(checkpoint)
    tokens, lengths = prompts()
    for exit_ in (1, 4):
        actual = jaxdepth.exit_logits(small, tokens, lengths, exit_)
        assert np.abs(actual - jaxdepth.exit_logits(wide, tokens, lengths, exit_)).max() < 1e-5
    exact = jaxdepth.exit_logits(plain, tokens, lengths, 4)
    assert 1e-3 < np.abs(actual - exact).max() < 0.5  # not the same model, nor another one
    decoded = [jaxdepth.generate(m, tokens, lengths, [1, 2, 3, 4], 6).tokens for m in (small, wide)]
    assert np.array_equal(*decoded)


def test_in_bfloat16_products_are_summed_in_float32(checkpoint):
    small, _ = jaxdepth.load(checkpoint, dtype="bfloat16", int8=True)
    assert small.embed[...].dtype == jnp.bfloat16
    leaf = jax.tree.map(lambda array: array[0], small.layers.up)
    x = jax.random.normal(jax.random.key(0), (5, leaf.shape[0])).astype(jnp.bfloat16)
    wide = np.asarray(leaf.values[...], np.float64) * np.asarray(leaf.scale[...], np.float64)
    actual, expected = leaf.matmul(x), np.asarray(x, np.float64) @ wide
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=2**-8, atol=1e-6)
