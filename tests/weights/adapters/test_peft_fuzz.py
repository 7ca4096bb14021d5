"""Damaged PEFT adapters of every initialisation: refused in one line, or read as by PEFT."""

import json
import math
import re
import shutil
from functools import partial

import numpy as np
import pytest
import tiny_tokenizers
from folders.peft import RAW, SHAPES, deltas_of, module_of, write_adapter
from mutants.folder import gone, mutate_folder, sidecar_bomb, tokenizer_value
from mutants.harness import fuzz, refusal
from mutants.safetensors import FILE_KINDS, TENSOR_KINDS, flip_number
from mutants.settings import settings_damage
from safetensors.numpy import load_file
from tiny import hf_tensors, write_folder

from jaxdepth.model.config import ModelConfig
from jaxdepth.study.inspection.inspect import inspect
from jaxdepth.weights.adapter import adapter_digest, brings_tokenizer, read_adapter
from jaxdepth.weights.convert import convert
from jaxdepth.weights.huggingface.adapter_tokenizer import load_adapted_tokenizer

# What is refused is a message of ours, not of the types that tests check.
pytestmark = pytest.mark.usefixtures("unchecked_shapes")
BASE = RAW | {"vocab_size": 1200}
CONFIG = ModelConfig.from_hf(BASE)
PLACES = [("q", 1), ("q", 2), ("v", 1), ("down", 3)]
Q1 = module_of("q", 1)
PATTERNS = {"rank_pattern": {Q1: 3, "zz": 9}, "alpha_pattern": {"v_proj": 6, r".*\.3\..*": 2.5}}
STARTS = {
    "true": {"init_lora_weights": True},
    "false": {"init_lora_weights": False, "use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian", "layers_to_transform": [1, 2, 3]},
    "eva": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}, **PATTERNS},
    "orthogonal": {"init_lora_weights": "orthogonal", "exclude_modules": ["k_proj"]},
    "mica": {"init_lora_weights": "mica", "target_modules": "all-linear"},
}
CONFIG_FILE, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = (
    *FILE_KINDS, *TENSOR_KINDS, *(flip_number,) * 4, *(settings_damage(CONFIG_FILE),) * 20,
    tokenizer_value, sidecar_bomb, gone,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An adapter of each initialisation, one with a tokenizer; and the base's checkpoint."""
    place = tmp_path_factory.mktemp("whole")
    for start, settings in STARTS.items():
        ranks = {("q", 1): 3} if "rank_pattern" in settings else None
        write_adapter(place / start, PLACES, ranks, **settings)
        assert read_adapter(str(place / start), CONFIG)
    tiny_tokenizers.build("chatml").save_pretrained(place / "gaussian")
    convert(write_folder(place / "source", BASE, hf_tensors(CONFIG)), place / "base")
    return place


def expected_deltas(folder):
    """What PEFT adds to each matrix, by its own rules in plain code."""
    settings = json.loads((folder / CONFIG_FILE).read_text())
    arrays, deltas = load_file(folder / WEIGHTS), {}
    for name, layer in ((name, layer) for name in SHAPES for layer in range(4)):
        module = module_of(name, layer)
        stem = f"base_model.model.{module}.lora_"
        if f"{stem}A.weight" not in arrays:
            continue
        a, b = (arrays[f"{stem}{letter}.weight"].astype(np.float32) for letter in "AB")

        def own(patterns, default, module=module):
            keys = (k for k in patterns or {} if re.match(rf"(.*\.)?({k})$", module))
            return (patterns or {}).get(next(keys, None), default)

        rank = own(settings.get("rank_pattern"), settings["r"])
        alpha = own(settings.get("alpha_pattern"), settings["lora_alpha"])
        assert a.shape[0] == rank
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        deltas[name, layer] = np.float32(scale) * (b @ a)
    return deltas


def mutant(whole, start, place, rng, done):
    """Refused; or what PEFT would add. Digest, tokenizer and description end in no traceback."""
    folder = place / "peft"
    shutil.copytree(whole / start, folder)
    done.append(mutate_folder(folder, rng, KINDS))
    results = []
    message = refusal(lambda: results.append(read_adapter(str(folder), CONFIG)))
    refusal(lambda: inspect(folder))
    if message is not None:
        return message
    assert len(adapter_digest(str(folder))) == 64
    deltas, expected = deltas_of(results[0]), expected_deltas(folder)
    assert set(expected) <= set(deltas)
    for key, delta in deltas.items():
        wanted = expected.get(key, np.zeros_like(delta))
        np.testing.assert_allclose(delta, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())
    if brings_tokenizer(str(folder)):
        load = partial(load_adapted_tokenizer, whole / "base", folder, CONFIG.vocab_size)
        return refusal(load)
    return None


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_damage_is_refused_or_harmless(whole, tmp_path, start, count):
    refused = fuzz(start, count, tmp_path, partial(mutant, whole, start))
    assert 0.3 * count < refused < count or count < 10
