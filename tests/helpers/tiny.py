"""Tiny models for tests: weights from numpy seeds, so golden files need hold only outputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import LAYER_PARAMETERS
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map

LENGTH = 64
LENGTHS = (64, 37, 5)
VOCAB = 96
NEW_TOKENS = 20  # the shortest prompt has 5: a window of 16 is crossed while decoding


def raw_config(**changes) -> dict:
    """A tiny `config.json`; initializer_range 0.1 makes small mistakes visible."""
    raw = {
        "model_type": "mistral",
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
    }
    return raw | changes


def hf_tensors(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a Hugging Face checkpoint for `config`, float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for mapped in tensor_map(config, HF_NAMES):
        array = rng.standard_normal(mapped.shape) * 0.1
        tensors[mapped.source] = (array + mapped.key.endswith("norm")).astype(np.float32)
    return tensors


def leaves_of(config: ModelConfig, tensors) -> dict[str, np.ndarray]:
    """Those tensors as stacked leaves, by the plainest code there is."""
    mapped = tensor_map(config, HF_NAMES)
    unstacked = {m.key: m.transpose(tensors[m.source]) for m in mapped}
    arrays = {k: v for k, v in unstacked.items() if not k.startswith("layers.")}
    for name in LAYER_PARAMETERS:
        if f"layers.0.{name}" not in unstacked:
            continue
        layers = [unstacked[f"layers.{i}.{name}"] for i in range(config.num_hidden_layers)]
        arrays[f"layers.{name}"] = np.stack(layers)
    return arrays


def shaken(params: dict, size: float) -> dict:
    """Begun parameters of tuning, each moved at random: none of them is zero any more."""
    keys = jax.random.split(jax.random.key(1), len(params))
    return {
        name: value + size * jax.random.normal(key, value.shape)
        for key, (name, value) in zip(keys, params.items(), strict=True)
    }


def model_of(raw: dict, seed: int = 0) -> Mistral:
    config = ModelConfig.from_hf(raw)
    arrays = leaves_of(config, hf_tensors(config, seed))
    return Mistral(config, {name: jnp.asarray(array) for name, array in arrays.items()})


def prompts(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (3, 64), right-padded, and lengths."""
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (len(LENGTHS), LENGTH))
    lengths = np.array(LENGTHS)
    return np.where(np.arange(LENGTH) < lengths[:, None], tokens, 0), lengths


def write_folder(folder, raw: dict, tensors: dict, shards: int = 1, index: bool = True):
    """A Hugging Face folder without a tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names, where = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        shard = {n: tensors[n] for n in names[i::shards]}
        save_file(shard, folder / file)
        where |= dict.fromkeys(shard, file)
    if index:
        content = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder
