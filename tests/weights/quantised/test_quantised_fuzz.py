"""Damaged quantised folders: refused in one clear line with nothing left, or converted."""

import json
import os
import random
import shutil

import numpy as np
import pytest
from mutants.damage import VALUES, pick, put
from mutants.safetensors import FILE_KINDS
from packing import packers
from safetensors.numpy import save_file
from tiny import hf_tensors, raw_config

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.convert import convert

SEED = 20261127
RAW = raw_config(
    vocab_size=16, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2, head_dim=16,
)  # fmt: skip
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": False}
METHODS = {
    "gptq": ({"bits": 4, "group_size": 16}, lambda r, s: packers.gptq(r, s, size=16)),
    "awq": ({"bits": 4, "group_size": 16}, lambda r, s: packers.awq(r, s, size=16)),
    "fp8": ({"weight_block_size": [16, 16]}, lambda r, s: packers.fp8(r, s, block=(16, 16))),
    "compressed-tensors": (
        {"format": "pack-quantized", "config_groups": {"a": {"weights": INT4}}},
        lambda r, s: packers.integers(r, s, bits=4, grid=(32, 2), packed=True, zero=True),
    ),
    "bitsandbytes": ({}, lambda r, s: packers.bitsandbytes_4bit(r, s, nested=True)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small folder of each method."""
    place = tmp_path_factory.mktemp("whole")
    for method, (settings, pack) in METHODS.items():
        rng, tensors = np.random.default_rng(0), {}
        for name, array in hf_tensors(ModelConfig.from_hf(RAW)).items():
            parts = {"weight": array}
            if name.endswith("_proj.weight"):
                parts = pack(rng, array.shape)[0]
            module = name.removesuffix(".weight")
            tensors |= {f"{module}.{role}": part for role, part in parts.items()}
        (place / method).mkdir()
        settings = {"quant_method": method, **settings}
        config = json.dumps(RAW | {"quantization_config": settings})
        (place / method / "config.json").write_text(config)
        save_file(tensors, place / method / "model.safetensors")
        convert(place / method, place / f"{method}-converted")
    return place


def damage(folder, rng):
    """Damages the weights, or half the time a setting; returns the kind of damage."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    if rng.random() < 0.5:
        kind = pick(rng, FILE_KINDS)
        weights.write_bytes(kind({weights.name: weights.read_bytes()}, rng)[weights.name])
        return kind.__name__
    content = json.loads(config.read_text())
    if rng.random() < 0.2:
        content["quantization_config"] = pick(rng, VALUES)
    elif rng.random() < 0.5:
        names = (*content["quantization_config"], "format", "version", "x")
        content["quantization_config"][pick(rng, names)] = pick(rng, VALUES)
    else:
        put(content["quantization_config"], rng, pick(rng, VALUES))
    config.write_text(json.dumps(content))
    return str(content["quantization_config"])[:200]


def refusal(place) -> str | None:
    """The error of a conversion; None if it was done."""
    try:
        convert(place / "source", place / "target")
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_damage_is_refused_or_harmless(whole, tmp_path, method, count):
    refused = 0
    for number in range(count):
        seed, place = random.Random(f"{SEED} {method} {number}"), tmp_path / str(number)
        shutil.copytree(whole / method, place / "source")
        done = damage(place / "source", np.random.default_rng(seed.getrandbits(64)))
        try:
            message = refusal(place)
            if message is not None:
                refused += 1
                assert "\n" not in message
                assert 20 < len(message) < 600, message
                assert os.listdir(place) == ["source"]
        except BaseException as error:
            error.add_note(f"mutant {number} of {method}, seed {SEED}: {done}")
            raise
        shutil.rmtree(place)
    assert 0.3 * count < refused <= count
