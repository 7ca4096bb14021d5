"""A model with biases and two kinds of layers, through files and scans; parity is elsewhere."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_files import write_gguf
from parity_grid import families
from safetensors.numpy import load_file
from tiny import hf_tensors, leaves_of, model_of, write_folder

import jaxdepth
from jaxdepth.model.config import ModelConfig
from jaxdepth.probing.along import scores_along
from jaxdepth.weights.checkpoint import MANIFEST
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import export

RAW = families()["qwen2.5-window"]
CONFIG = ModelConfig.from_hf(RAW)
TENSORS = hf_tensors(CONFIG)


def assert_holds(path):
    model, _ = jaxdepth.load(path)
    for name, array in leaves_of(CONFIG, TENSORS).items():
        owner = model.layers if name.startswith("layers.") else model
        actual = getattr(owner, name.removeprefix("layers."))[...]
        np.testing.assert_array_equal(actual, array, err_msg=name)
    return model


def test_converted_loaded_and_exported(tmp_path):
    convert(write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "model")
    model = assert_holds(tmp_path / "model")
    assert model.config == CONFIG
    export(tmp_path / "model", tmp_path / "hf")
    again = load_file(tmp_path / "hf" / "model.safetensors")
    assert set(again) == set(TENSORS)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert ModelConfig.from_hf(written) == CONFIG


def test_converted_from_parts(tmp_path):
    raw = RAW | {"use_sliding_window": False}
    parts = write_gguf(tmp_path / "m.gguf", raw, TENSORS, parts_of=20)
    convert(parts[1], tmp_path / "model")
    assert_holds(tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / MANIFEST).read_text())
    assert sorted(manifest["source"]["files"]) == [p.name for p in parts]
    assert not convert(parts[0], tmp_path / "model")  # the same, whichever part is named


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_stacked_block_that_does_not_know_its_layers_is_refused():
    """A scan over the weights alone would give every layer the same window."""
    model = model_of(RAW)
    with pytest.raises(ValueError, match=r"take them from `Mistral.blocks`"):
        model.layers(jnp.zeros((1, 4, 64)), *model.position_inputs(4))
    plain = model_of(families()["qwen2"])
    assert plain.blocks() is plain.layers


def test_probes_along_a_text():
    """Every scan takes blocks: the others are held against numbers by the tests of their own."""
    model, zeros = model_of(RAW), np.zeros
    probes = zeros((1, 2, 5, 64)), zeros((1, 2, 5)), zeros((5, 64))
    actual = jax.eval_shape(
        lambda tokens: scores_along(model, tokens, np.array([4]), *probes), zeros((1, 4), np.int32)
    )
    assert actual.shape == (1, 2, 5, 4)
