"""Each family that llama.cpp has too: the config and the weights of a GGUF are those of its source.

That such a config gives Hugging Face's logits is tested where the families are.
"""

from dataclasses import replace

import numpy as np
import pytest
from gguf_files import write_gguf
from parity_grid import families, special_cases
from test_gguf import read_all
from tiny import hf_tensors, raw_config

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig, block_config
from jaxdepth.weights.sources import open_source

# A GGUF cannot say which layers rotate, nor that only some have the window.
CASES = families() | {
    "smollm3": families()["smollm3"] | {"no_rope_layers": None, "num_hidden_layers": 8}
    | {"layer_types": None},
    "yarn-factor": special_cases()["yarn-factor"],
    "rope-linear": special_cases()["rope-linear"],
}  # fmt: skip
ROWS = [
    "mistral-7b-v0.1", "mistral-7b-v0.2", "mistral-nemo", "mistral-small-3.1", "ministral-3",
    "ministral-3-3b", "llama-2", "llama-3.1", "llama-3.2", "smollm2", "smollm3", "qwen2",
    "qwen2.5-yarn", "qwen3", "qwen3guard", "yarn-factor", "rope-linear",
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_gguf_is_its_source(tmp_path, row):
    raw = block_config(CASES[row])
    config = ModelConfig.from_hf(raw)
    tensors = hf_tensors(config)
    architecture = "mistral3" if row == "mistral-small-3.1" else None  # else by the family
    source = write_gguf(tmp_path / "m.gguf", raw, tensors, architecture=architecture)
    opened = open_source(source).config
    assert np.float32(opened.rms_norm_eps) == np.float32(config.rms_norm_eps)
    assert replace(opened, rms_norm_eps=config.rms_norm_eps) == config
    read = read_all(source)
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def test_queries_by_position_need_yarn(tmp_path):
    raw = raw_config()
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    scale = {"mistral3__attention__temperature_scale": 0.1}
    source = write_gguf(tmp_path / "m.gguf", raw, tensors, architecture="mistral3", **scale)
    with pytest.raises(InputError, match=r"temperature_scale = 0.1.* without YaRN"):
        open_source(source)


def test_only_llamas_architecture_says_which_layers_have_a_window(tmp_path):
    raw = families()["qwen3"]
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    window = {"qwen3__attention__sliding_window": 16}
    with pytest.raises(InputError, match=r"qwen3.attention.sliding_window = 16 may change"):
        open_source(write_gguf(tmp_path / "m.gguf", raw, tensors, **window))
