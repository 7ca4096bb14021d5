"""A single file of weights beside an index of shards: the file counts, as in transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import hf_tensors, write_folder
from tiny_source import CONFIG, Q3, RAW, TENSORS, assert_holds

from jaxdepth import InputError
from jaxdepth.weights.convert import convert
from jaxdepth.weights.huggingface import shards
from jaxdepth.weights.huggingface.source import SafetensorsSource

OLD = hf_tensors(CONFIG, seed=1)


@pytest.fixture
def twice(tmp_path):
    """Shards of older weights with an index, and newer weights in one file."""
    folder = write_folder(tmp_path / "source", RAW, OLD, shards=2)
    save_file(TENSORS, folder / "model.safetensors")
    return folder


def test_an_index_that_was_left_behind(twice, tmp_path, torch):
    from transformers import AutoModelForCausalLM

    for shard in twice.glob("model-*.safetensors"):
        shard.unlink()
    convert(twice, tmp_path / "target")
    assert_holds(tmp_path / "target")
    theirs = AutoModelForCausalLM.from_pretrained(twice).state_dict()[Q3].numpy()
    np.testing.assert_array_equal(theirs, TENSORS[Q3])


@pytest.mark.parametrize("missing", ["model-00001-of-00002", "model-00002-of-00002"])
def test_shards_that_are_not_complete(twice, tmp_path, missing):
    (twice / f"{missing}.safetensors").unlink()
    convert(twice, tmp_path / "target")
    assert_holds(tmp_path / "target")


def test_two_models_are_refused(twice, tmp_path):
    with pytest.raises(InputError, match=r"two models: model.safetensors.*index.json"):
        convert(twice, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("change", ["nothing", "a bit", "a tensor less", "a dtype"])
def test_the_same_model_twice(twice, monkeypatch, change):
    """Only what is equal to the bit is taken for the same."""
    monkeypatch.setattr(shards, "_BLOCK", 1000)
    single = {name: array.copy() for name, array in OLD.items()}
    if change == "a bit":
        single[Q3].flat[-1] += 1e-3
    if change == "a tensor less":
        del single[Q3]
    if change == "a dtype":
        single[Q3] = single[Q3].astype(np.float16)
    save_file(single, twice / "model.safetensors")
    if change == "nothing":
        assert SafetensorsSource(twice).files == [twice / "model.safetensors"]
        return
    with pytest.raises(InputError, match="two models"):
        SafetensorsSource(twice)


def test_a_damaged_shard_is_named(twice):
    shard = twice / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors is truncated"):
        SafetensorsSource(twice)


def test_an_index_of_the_single_file(tmp_path):
    folder = write_folder(tmp_path / "source", RAW, TENSORS)
    index = {"weight_map": dict.fromkeys(TENSORS, "model.safetensors")}
    (folder / shards.INDEX_NAME).write_text(json.dumps(index))
    assert SafetensorsSource(folder).files == [folder / "model.safetensors"]
    save_file({k: v for k, v in load_file(folder / "model.safetensors").items() if k != Q3},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match=f"says that tensor {Q3} is in model.safetensors"):
        SafetensorsSource(folder)
