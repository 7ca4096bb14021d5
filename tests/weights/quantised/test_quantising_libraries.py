"""Quantised weights against the libraries that write and read them; each is skipped if not there.

    pip install compressed-tensors bitsandbytes gptqmodel autoawq

The libraries multiply in the dtype of the scales, so that these are given in float32 where they can
be, and compared to float16's precision where they cannot.
"""

import json
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from packing import packers
from test_quantised import CONFIG, RAW, quantised_tensors, write_source
from tiny import hf_tensors, prompts, write_folder

import jaxdepth
from jaxdepth import exit_logits
from jaxdepth.weights.convert import convert
from jaxdepth.weights.quantised.methods import find_packed
from jaxdepth.weights.quantised.packed import Header

SHAPE = 64, 128  # of other widths bitsandbytes 0.50 dequantises wrongly on a CPU
_DTYPES = {"int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8", "float32": "F32",
           "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}  # fmt: skip


def array_of(tensor) -> np.ndarray:
    """A tensor of torch as an array, by its bytes: numpy has no float8 of its own."""
    import torch

    dtype = np.dtype(getattr(ml_dtypes, str(tensor.dtype).removeprefix("torch."), "uint8"))
    if dtype == np.uint8:
        return tensor.contiguous().numpy()
    return tensor.contiguous().view(torch.uint8).numpy().view(dtype)


def dequantised(settings, tensors) -> np.ndarray:
    """The weight of one module, as a conversion reads it."""
    arrays = {f"m.{role}": array_of(tensor) for role, tensor in tensors.items()}
    headers = {name: Header(_DTYPES[str(a.dtype)], a.shape) for name, a in arrays.items()}
    packed = find_packed(settings, headers, arrays.__getitem__).packed["m.weight"]
    weight = packed.dequantise({role: arrays[name] for role, name in packed.parts.items()})
    assert weight.shape == packed.shape
    return weight


def random_weight(torch, seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "strategy": "tensor", "symmetric": False}),
        ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
        (
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
        ),
        ("pack-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
        ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
        (
            "float-quantized",
            {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32]},
        ),
    ],
)
def test_compressed_tensors(torch, kind, weights):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    weight = random_weight(torch) + 0.02
    outputs, inputs = SHAPE
    grid = {"tensor": (1, 1), "channel": (outputs, 1), "group": (outputs, inputs // 32)}.get(
        weights["strategy"], (outputs // 32, inputs // 32)
    )
    cells = weight.reshape(grid[0], outputs // grid[0], grid[1], inputs // grid[1])
    scale, zero = calculate_qparams(cells.amin((1, 3)), cells.amax((1, 3)), scheme.weights)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    compressor = BaseCompressor.get_value_from_registry(kind)
    written = compressor.compress(state, scheme)
    expected = compressor.decompress(written, scheme)["weight"]
    settings = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
    }
    np.testing.assert_allclose(dequantised(settings, written), expected.numpy(), atol=1e-7)
    assert np.abs(expected.numpy() - weight.numpy()).max() < 0.05  # it is that weight, rounded


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_4bit(torch, kind, nested):
    functional = pytest.importorskip("bitsandbytes").functional
    packed, state = functional.quantize_4bit(
        random_weight(torch), quant_type=kind, compress_statistics=nested, blocksize=64
    )
    parts = {f"weight.{role}": part for role, part in state.as_dict(packed=True).items()}
    expected = functional.dequantize_4bit(packed, state).numpy()
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    actual = dequantised(settings, {"weight": packed, **parts})
    np.testing.assert_allclose(actual, expected, atol=1e-7)


@pytest.mark.parametrize("settings", [{"load_in_8bit": True}, {"load_in_4bit": True}])
def test_a_model_that_bitsandbytes_wrote(torch, settings, tmp_path):
    """transformers quantises a tiny model and saves it; logits at full depth."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    write_folder(tmp_path / "source", RAW, hf_tensors(CONFIG))
    nested = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    more = nested if "load_in_4bit" in settings else {"llm_int8_threshold": 0.0}
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "source",
        quantization_config=BitsAndBytesConfig(**settings, **more),
        dtype=torch.float32,
        device_map="cpu",
    )
    theirs.save_pretrained(tmp_path / "quantised")
    convert(tmp_path / "quantised", tmp_path / "model")
    ours, _ = jaxdepth.load(tmp_path / "model", dtype="float32")
    tokens_BS, lengths_B = prompts()
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens_BS[:1])).logits[0, -1].float().numpy()
    actual = np.asarray(exit_logits(ours, tokens_BS[:1], lengths_B[:1], 1)[0])
    # The weights are equal (above); a CPU multiplies by them in bfloat16, or in 8 bits.
    bound = 0.02 if "load_in_4bit" in settings else 0.1
    assert np.abs(actual - logits).max() < bound * np.abs(logits).max()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", [False, True])
def test_gptq(torch, bits, version, order):
    """The library packs, and dequantises in float16."""
    pytest.importorskip("gptqmodel")
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    outputs, inputs = SHAPE
    layer = TorchLinear(
        bits=bits, group_size=32, sym=False, desc_act=order, in_features=inputs,
        out_features=outputs, bias=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    scales = 0.01 + 0.01 * torch.rand((outputs, inputs // 32), generator=generator)
    zeros = torch.randint(0, 2**bits, (outputs, inputs // 32), generator=generator)
    groups = torch.arange(inputs, dtype=torch.int32) // 32
    groups = groups[torch.randperm(inputs, generator=generator)] if order else groups
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    linear.weight.data = random_weight(torch)
    layer.pack(linear, scales, zeros, groups)
    layer.post_init()
    expected = layer.dequantize_weight().T.float().numpy()
    if version == 1:
        config = QuantizeConfig(bits=bits, group_size=32)
        convert_gptq_v2_to_v1_format_module(layer, config)
    names = ("qweight", "qzeros", "scales", "g_idx")
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": 32,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
    }
    actual = dequantised(settings, {name: getattr(layer, name) for name in names})
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-6)


def test_awq(torch):
    """The library packs, and dequantises in float16."""
    pytest.importorskip("awq")
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    outputs, inputs = SHAPE
    generator = torch.Generator().manual_seed(0)
    scales = (0.01 + 0.01 * torch.rand((inputs // 32, outputs), generator=generator)).half()
    zeros = torch.randint(0, 16, (inputs // 32, outputs), generator=generator)
    linear = torch.nn.Linear(inputs, outputs, bias=False).half()
    # What the scales and zeros can say, so that the library has nothing to clip.
    codes = torch.randint(0, 16, (inputs, outputs), generator=generator)
    linear.weight.data = (
        (codes - zeros.repeat_interleave(32, 0)) * scales.repeat_interleave(32, 0)
    ).T
    layer = WQLinear_GEMM.from_linear(linear, 4, 32, scales=scales, zeros=zeros)
    expected = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, 32).T.float().numpy()
    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    names = ("qweight", "qzeros", "scales")
    actual = dequantised(settings, {name: getattr(layer, name) for name in names})
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("block", [(32, 32), None])
def test_fp8(torch, tmp_path, block):
    """transformers dequantises the same files as it loads them."""
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    settings = {"quant_method": "fp8", "weight_block_size": block and list(block)}
    pack = partial(packers.fp8, block=block)
    source = write_source(tmp_path / "source", settings, quantised_tensors(pack)[0])
    theirs = AutoModelForCausalLM.from_pretrained(
        source,
        quantization_config=FineGrainedFP8Config(weight_block_size=block, dequantize=True),
        dtype=torch.float32,
    )
    convert(source, tmp_path / "model")
    ours, _ = jaxdepth.load(tmp_path / "model", dtype="float32")
    for matrix, parameter in (("mlp.up_proj", "up"), ("self_attn.k_proj", "k")):
        weight = theirs.get_submodule(f"model.layers.0.{matrix}").weight
        assert weight.dtype == torch.float32
        actual = np.asarray(getattr(ours.layers, parameter)[...][0]).T
        np.testing.assert_allclose(actual, weight.detach().numpy(), atol=1e-6)


def test_packers_agree_with_the_table_of_bitsandbytes(torch):
    functional = pytest.importorskip("bitsandbytes").functional
    np.testing.assert_allclose(
        packers.NF4, functional.get_4bit_type("nf4", device="cpu"), atol=1e-7
    )
