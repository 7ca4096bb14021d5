"""Quantised safetensors: the weights of each format are those that its specification says.

The references are written in `packing.packers` from the specifications, by plain loops. The
libraries that write these formats are compared in `test_quantising_libraries`.
"""

import json
from functools import partial

import numpy as np
import pytest
from folders.mistral import in_image_model
from packing import packers
from packing.cases import BNB, CASES, FP8, GPTQ, group
from packing.cases import quantised_tensors as packed_tensors
from parity_grid import image_model
from safetensors.numpy import save_file
from tiny import hf_tensors, raw_config
from tiny_source import assert_holds

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights import checkpoint
from jaxdepth.weights.convert import convert
from jaxdepth.weights.sources import open_source, source_tensors
from jaxdepth.weights.verify import verify

RAW = raw_config(num_hidden_layers=1, intermediate_size=128, num_key_value_heads=4)
CONFIG = ModelConfig.from_hf(RAW)
MLP = "model.layers.0.mlp.up_proj"


quantised_tensors = partial(packed_tensors, tensors=hf_tensors(CONFIG))


def write_source(folder, settings, tensors, **changes):
    folder.mkdir(parents=True)
    quantised = {} if settings is None else {"quantization_config": settings}
    config = RAW | quantised | changes
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_the_specification(tmp_path, name):
    settings, pack = CASES[name]
    written, dense = quantised_tensors(pack)
    source = write_source(tmp_path / "source", settings, written)
    convert(source, tmp_path / "model")
    assert_holds(tmp_path / "model", dense, RAW)
    # The checkpoint is of a model that is not quantised; the manifest has what it was.
    assert "quantization_config" not in json.loads((tmp_path / "model/config.json").read_text())
    manifest = checkpoint.read_manifest(tmp_path / "model")
    assert manifest["source"]["quantisation"] == settings
    assert not convert(source, tmp_path / "model")


def test_verified_and_inspected(tmp_path, capsys):
    settings, pack = CASES["gptq v2, act-order"]
    source = write_source(tmp_path / "source", settings, quantised_tensors(pack)[0])
    assert main(["convert", str(source), str(tmp_path / "model")]) == 0
    verified = verify(source, tmp_path / "model")
    assert verified.reference == "a model built from the source"
    assert verified.logits < 1e-5
    for path in (source, tmp_path / "model"):
        capsys.readouterr()
        assert main(["inspect", str(path)]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert (
            "quantised by gptq, checkpoint_format 'gptq_v2', bits 4, group_size 32, desc_act True"
            in output
        )


def test_settings_are_found_wherever_tools_write_them(tmp_path):
    """In `quantize_config.json`, under the older key, and without a method."""
    written, dense = quantised_tensors(packers.gptq)
    source = write_source(tmp_path / "older", None, written)
    settings = {k: v for k, v in GPTQ.items() if k != "quant_method"}
    (source / "quantize_config.json").write_text(json.dumps(settings))
    convert(source, tmp_path / "a")
    assert_holds(tmp_path / "a", dense, RAW)
    settings, pack = CASES["int8"]
    written, dense = quantised_tensors(pack)
    convert(
        write_source(tmp_path / "b-hf", None, written, compression_config=settings), tmp_path / "b"
    )
    assert_holds(tmp_path / "b", dense, RAW)
    written, dense = quantised_tensors(packers.bitsandbytes_4bit)
    convert(write_source(tmp_path / "c-hf", {"load_in_4bit": True}, written), tmp_path / "c")
    assert_holds(tmp_path / "c", dense, RAW)


def test_what_weights_do_not_depend_on_is_left_out(tmp_path):
    """Scales of activations and of the cache, and the zeros that some tools write as biases."""
    written, dense = quantised_tensors(partial(packers.fp8))
    written |= {f"{MLP}.activation_scale": np.ones((), np.float32)}
    written |= {"model.layers.0.self_attn.k_scale": np.ones(1, np.float32)}
    convert(
        write_source(tmp_path / "a-hf", FP8 | {"weight_block_size": None}, written), tmp_path / "a"
    )
    assert_holds(tmp_path / "a", dense, RAW)
    written, dense = quantised_tensors(packers.gptq)
    written[f"{MLP}.bias"] = np.zeros(128, np.float16)
    convert(write_source(tmp_path / "b-hf", GPTQ, written), tmp_path / "b")
    assert_holds(tmp_path / "b", dense, RAW)
    written[f"{MLP}.bias"] = np.ones(128, np.float16)
    with pytest.raises(InputError, match=r"unexpected tensor model.layers.0.mlp.up_proj.bias"):
        convert(write_source(tmp_path / "c-hf", GPTQ, written), tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gptq", {"quant_method": "aqlm"}, r"quantised by 'aqlm' are not read, only by fp8"),
        ("gptq", {"quant_method": ["gptq"]}, r"quantised by \['gptq'\] are not read"),
        ("gptq", {"rotation": "hadamard"}, r"rotation = 'hadamard', which is not implemented"),
        ("gptq", {"dynamic": {"-:.*": {}}, "a": 1}, r"has dynamic = .*, a = 1, which is not"),
        ("gptq", {"checkpoint_format": "marlin"}, r"GPTQ in the format 'marlin'"),
        ("gptq", {"bits": 5}, r"GPTQ of 5 bits"),
        ("gptq", {"bits": "4"}, r"bits is '4', expected a number"),
        ("gptq", {"group_size": 64}, r"qzeros is I32 \(4, 8\), expected I32 \(2, 8\)"),
        ("gptq", {"checkpoint_format": None, "format": "marlin"}, r"GPTQ in the format 'marlin'"),
        ("awq", {"group_size": 33}, r"inputs, no multiple of group_size 33"),
        ("awq", {"version": "gemv"}, r"AWQ in the form \['gemv'\]"),
        ("awq", {"zero_point": False}, r"zero_point = False"),
        ("fp8 in blocks", {"weight_block_size": [128, 128]}, r"expected F32 or .* \(1, 1\)"),
        ("fp8 in blocks", {"weight_block_size": [0]}, r"expected two positive numbers"),
        ("fp8 in blocks", {"expert_dtype": "fp4"}, r"expert_dtype = 'fp4'"),
        ("int8", {"format": "marlin-24"}, r"format 'marlin-24' is not implemented"),
        ("int8", {"transform_config": {"config_groups": {"u": {}}}}, r"transform_config = "),
        ("int8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, r"sparsity_config = "),
        ("int8", {"config_groups": {}}, r"lacks config_groups"),
        ("int8", {"config_groups": {"a": group(num_bits=3)}}, r"weights of 3 bits"),
        ("int8", {"config_groups": {"a": group(odd=1)}}, r"with odd are not implemented"),
        ("int8", {"config_groups": {"a": group(symmetric=False)}}, r"no weight_zero_point"),
        ("nf4", {"bnb_5bit": True}, r"bnb_5bit = True"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, name, change, message):
    settings, pack = CASES[name]
    source = write_source(tmp_path / "source", settings | change, quantised_tensors(pack)[0])
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "role", "array", "message"),
    [
        ("gptq", "qzeros", None, r"up_proj.qzeros is missing"),
        ("gptq", "g_idx", np.full(64, 2, np.int32), r"g_idx names groups up to 2"),
        ("awq", "scales", np.ones((2, 127), np.float16), r"expected F16 or BF16 or F32 \(2, 128\)"),
        ("fp8 for outputs", "weight_scale", None, r"up_proj.weight is F8_E4M3, expected one of"),
        ("fp8 for outputs", "weight_scale_inv", np.ones(1, np.float32), r"has both .*weight_scale"),
        ("int4 packed", "weight_shape", np.array([128, 72]), r"weight_packed is I32 \(128, 8\)"),
        ("int8", "weight", np.ones((128, 64), np.float32), r"weight is F32 .* expected I8"),
        ("int8", "weight_shape_2", np.ones(2, np.int32), r"weight_shape_2 is I32"),
        ("nf4", "weight.absmax", np.ones(3, np.float32), r"absmax is F32 \(3,\), expected"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", np.zeros(9, np.uint8), r"is damaged"),
        ("8 bits", "weight_format", np.ones((), np.uint8), r"weight_format is not 0"),
    ],
)
def test_damaged_parts_are_named(tmp_path, name, role, array, message):
    settings, pack = CASES[name]
    written, _ = quantised_tensors(pack)
    written.pop(f"{MLP}.{role}", None)
    if array is not None:
        written[f"{MLP}.{role}"] = array
    source = write_source(tmp_path / "source", settings, written)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_outputs_whose_zero_points_fill_no_word(tmp_path):
    """33 outputs, though 4 words of zero points have the codes of 32."""
    written, _ = quantised_tensors(packers.gptq)
    for role, columns in (("qweight", 33), ("qzeros", 4), ("scales", 33)):
        name = f"{MLP}.{role}"
        written[name] = np.ascontiguousarray(written[name][:, :columns])
    source = write_source(tmp_path / "source", GPTQ, written)
    with pytest.raises(InputError, match=r"qweight has 33 outputs, expected a multiple of 8"):
        convert(source, tmp_path / "model")


def test_blocks_beyond_the_weight_take_no_memory(tmp_path):
    """A file may say blocks of any size: here they are one block."""
    settings = {"weight_block_size": [10**13, 10**13]}
    written, dense = quantised_tensors(partial(packers.fp8, block=(1000, 1000)))
    convert(write_source(tmp_path / "source", FP8 | settings, written), tmp_path / "model")
    assert_holds(tmp_path / "model", dense, RAW)


def test_a_config_of_other_files_is_refused(tmp_path):
    source = write_source(tmp_path / "a", BNB, hf_tensors(CONFIG))
    with pytest.raises(InputError, match=r"quantised by bitsandbytes, but no tensor is"):
        convert(source, tmp_path / "model")
    source = write_source(tmp_path / "b", None, quantised_tensors(packers.gptq)[0])
    with pytest.raises(InputError, match=r"is I32, expected .*: config.json names no quant"):
        convert(source, tmp_path / "model")
    source = write_source(tmp_path / "c", "gptq", quantised_tensors(packers.gptq)[0])
    with pytest.raises(InputError, match=r"quantization_config is 'gptq', expected an object"):
        convert(source, tmp_path / "model")


@pytest.mark.parametrize("layout", ["transformers 4", "transformers 5"])
def test_a_quantised_text_model_inside_an_image_model(tmp_path, layout):
    """As Ministral 3 is uploaded: FP8 with one scale a tensor, and another for activations."""
    settings, pack = CASES["fp8 for tensors"]
    written, dense = quantised_tensors(pack)
    written |= {f"{MLP}.activation_scale": np.ones((), np.float32)}
    raw = image_model(False, **RAW) | {"quantization_config": settings}
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(raw))
    save_file(in_image_model(written, layout), source / "model.safetensors")
    convert(source, tmp_path / "model")
    assert_holds(tmp_path / "model", dense, RAW)


@pytest.mark.parametrize("name", ["gptq", "int4 packed", "nf4", "fp8 in blocks"])
def test_chunks_are_as_large_as_what_is_dequantised(tmp_path, name):
    """A conversion holds two chunks; their sizes are planned before anything is read."""
    settings, pack = CASES[name]
    opened = open_source(write_source(tmp_path / "hf", settings, quantised_tensors(pack)[0]))
    for tensor in source_tensors(opened):
        assert opened.nbytes(tensor) == opened.read(tensor).nbytes
