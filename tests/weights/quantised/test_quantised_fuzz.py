"""Damaged quantised folders: refused in one clear line, or the weights that their tensors say."""

import json
import shutil
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from mutants.folder import INDEX, mutate_folder
from mutants.harness import fuzz, refused_conversion
from mutants.quantised import kinds_of
from mutants.safetensors import shards, split
from packing import packers, readers
from tiny import hf_tensors, leaves_of, raw_config, write_folder

import jaxdepth
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.weights.convert import convert

# What is refused is a message of ours, not of the types that tests check.
pytestmark = pytest.mark.usefixtures("unchecked_shapes")
RAW = raw_config(
    vocab_size=16, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2, head_dim=16,
)  # fmt: skip
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": False}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "tensor"}
GPTQ = {"bits": 4, "group_size": 16, "desc_act": False}


def compressed(kind, *groups):
    named = {f"group_{n}": {"targets": ["Linear"], "weights": one} for n, one in enumerate(groups)}
    return {"format": kind, "config_groups": named}


def mixed(rng, shape):
    """Half of the modules in 4 bits by groups, half in 8 bits by outputs."""
    if rng.integers(2):
        return packers.integers(rng, shape, bits=4, grid=(32, 2), packed=True, zero=True)
    return packers.integers(rng, shape, bits=8, grid=(32, 1), packed=True)


CT = "compressed-tensors"
# Name -> method, its settings, what packs a module, what reads one again.
KINDS = {
    "gptq": ("gptq", GPTQ, partial(packers.gptq, size=16), readers.gptq),
    "gptq, act-order": (
        "gptq",
        GPTQ | {"bits": 8, "desc_act": True, "checkpoint_format": "gptq_v2"},
        partial(packers.gptq, bits=8, size=16, version=2, order=True),
        readers.gptq,
    ),
    "gptq, older": (
        "gptq",
        GPTQ | {"bits": 2},
        partial(packers.gptq, bits=2, size=16),
        readers.gptq,
    ),
    "awq": ("awq", {"bits": 4, "group_size": 16}, partial(packers.awq, size=16), readers.awq),
    "fp8 in blocks": (
        "fp8", {"weight_block_size": [16, 16]}, partial(packers.fp8, block=(16, 16)), readers.fp8
    ),
    "fp8 for tensors": ("fp8", {"weight_block_size": None}, packers.fp8, readers.fp8),
    "int4 packed": (
        CT,
        compressed("pack-quantized", INT4),
        partial(packers.integers, bits=4, grid=(32, 2), packed=True, zero=True),
        readers.integers,
    ),
    "int4, act-order": (
        CT,
        compressed("pack-quantized", INT4 | {"actorder": "group"}),
        partial(packers.integers, bits=4, grid=(32, 2), packed=True, zero=True, order=True),
        readers.integers,
    ),
    "int8": (
        CT,
        compressed("int-quantized", INT8),
        partial(packers.integers, grid=(32, 1)),
        readers.integers,
    ),
    "float8": (
        CT,
        compressed("float-quantized", FLOAT8),
        partial(packers.fp8, scale="weight_scale"),
        readers.integers,
    ),
    "mixed": (CT, compressed("mixed-precision", INT4, INT8), mixed, readers.integers),
    "nf4": ("bitsandbytes", {}, packers.bitsandbytes_4bit, readers.bitsandbytes),
    "nf4, nested": (
        "bitsandbytes", {}, partial(packers.bitsandbytes_4bit, nested=True), readers.bitsandbytes
    ),
    "8 bits": ("bitsandbytes", {}, packers.bitsandbytes_int8, readers.bitsandbytes),
}  # fmt: skip
OLDER = "quantize_config.json"
DTYPES = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "I8": np.int8, "U8": np.uint8, "I32": np.int32,
    "I64": np.int64,
}  # fmt: skip
MODULES = [n.removesuffix(".weight") for n in hf_tensors(ModelConfig.from_hf(RAW)) if "_proj" in n]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small folder of each kind, in two files: the parts of a module are in both."""
    place = tmp_path_factory.mktemp("whole")
    for kind, (method, settings, pack, _) in KINDS.items():
        rng, tensors = np.random.default_rng(0), {}
        for name, array in hf_tensors(ModelConfig.from_hf(RAW)).items():
            module = name.removesuffix(".weight")
            parts = pack(rng, array.shape)[0] if module in MODULES else {"weight": array}
            tensors |= {f"{module}.{role}": part for role, part in parts.items()}
        named = {} if kind == "gptq, older" else {"quantization_config": {"quant_method": method}}
        for given in named.values():
            given |= settings
        folder = write_folder(place / kind, RAW | named, tensors, shards=2)
        if not named:
            (folder / OLDER).write_text(json.dumps(settings))
        convert(folder, place / f"{kind}-converted")
    return place


def tensors_of(folder):
    tensors = {}
    for file in shards(folder):
        header, numbers = split(file.read_bytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            array = np.frombuffer(numbers[begin:end], DTYPES[entry["dtype"]])
            tensors[name] = array.reshape(entry["shape"])
    return tensors


def mutant(whole, kind, place, rng, done):
    """Refused with nothing left behind; or converted to what the tensors stand for."""
    source, target = place / "source", place / "target"
    shutil.copytree(whole / kind, source)
    done.append(mutate_folder(source, rng, kinds_of(OLDER if kind == "gptq, older" else None)))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    given = json.loads((source / "config.json").read_text()).get("quantization_config")
    settings = given or json.loads((source / OLDER).read_text())
    stored, dense = tensors_of(source), {}
    for module in MODULES:
        prefix = f"{module}."
        parts = {n.removeprefix(prefix): a for n, a in stored.items() if n.startswith(prefix)}
        dense[f"{module}.weight"] = KINDS[kind][3](settings, parts)
    config, _ = read_config(target / "config.json")
    model, _ = jaxdepth.load(target)
    for name, expected in leaves_of(config, stored | dense).items():
        module = model.layers if "." in name else model
        actual = np.asarray(getattr(module, name.removeprefix("layers."))[...])
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=0, err_msg=name)
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [6, pytest.param(400, marks=pytest.mark.slow)])
def test_damage_is_refused_or_harmless(whole, tmp_path, kind, count):
    refused = fuzz(kind, count, tmp_path, partial(mutant, whole, kind))
    assert 0.3 * count < refused < count or count < 10


def test_the_index_is_there(whole):
    """So that its damage is tried, too."""
    assert all((whole / kind / INDEX).is_file() for kind in KINDS)
