"""Quantised models of every kind that is read: settings, and what packs a module by them."""

from functools import partial

import ml_dtypes
import numpy as np
from packing import packers


def group(**weights):
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"} | weights
    return {"targets": ["Linear"], "weights": weights}


def compressed(kind, *groups):
    named = {f"group_{number}": settings for number, settings in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": named}


def per_output(rng, shape, **options):
    return packers.integers(rng, shape, grid=(shape[0], 1), **options)


def per_group(rng, shape, **options):
    return packers.integers(rng, shape, grid=(shape[0], shape[1] // 32), **options)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CASES = {
    "gptq": (GPTQ, packers.gptq),
    "gptq v2, act-order": (
        GPTQ | {"checkpoint_format": "gptq_v2", "desc_act": True},
        partial(packers.gptq, version=2, order=True),
    ),
    "gptq 8 bits, one group": (
        GPTQ | {"bits": 8, "group_size": -1},
        partial(packers.gptq, bits=8, size=-1),
    ),
    "gptq 3 bits": (GPTQ | {"bits": 3}, partial(packers.gptq, bits=3)),
    "gptq 2 bits": (GPTQ | {"bits": 2}, partial(packers.gptq, bits=2)),
    "awq": (AWQ, packers.awq),
    "fp8 in blocks": (
        FP8 | {"weight_block_size": [48, 40]},
        partial(packers.fp8, block=(48, 40)),
    ),
    "fp8 in powers of two": (
        FP8 | {"weight_block_size": [32, 32], "scale_fmt": "ue8m0"},
        partial(packers.fp8, block=(32, 32), dtype=ml_dtypes.float8_e8m0fnu),
    ),
    "fp8 for tensors": (
        FP8 | {"activation_scheme": "static", "weight_block_size": None, "dequantize": False},
        partial(packers.fp8, dtype=ml_dtypes.bfloat16),
    ),
    "fp8 for outputs": (FP8, partial(packers.fp8, scale="weight_scale", channel=True)),
    "int8": (compressed("int-quantized", group()), per_output),
    "int8 for tensors": (compressed("int-quantized", group(strategy="tensor")), packers.integers),
    "int4 packed": (
        compressed("pack-quantized", group(num_bits=4, strategy="group", group_size=32)),
        partial(per_group, bits=4, packed=True, dtype=ml_dtypes.bfloat16),
    ),
    "int4 packed, zero points": (
        compressed(
            "pack-quantized",
            group(num_bits=4, strategy="group", group_size=32, symmetric=False, actorder=None),
        ),
        partial(per_group, bits=4, packed=True, zero=True),
    ),
    "int4 packed, act-order": (
        compressed(
            "pack-quantized", group(num_bits=4, strategy="group", group_size=32, actorder="group")
        ),
        partial(per_group, bits=4, packed=True, order=True),
    ),
    "int8 packed, zero points": (
        compressed("pack-quantized", group(symmetric=False)),
        partial(per_output, packed=True, zero=True),
    ),
    "int8, zero points": (
        compressed("naive-quantized", group(symmetric=False)),
        partial(per_output, zero=True),
    ),
    "float8": (
        compressed("float-quantized", group(type="float")),
        partial(packers.fp8, scale="weight_scale", channel=True),
    ),
    "float8 in blocks": (
        compressed(
            "float-quantized", group(type="float", strategy="block", block_structure=[48, 40])
        ),
        partial(packers.fp8, scale="weight_scale", block=(48, 40)),
    ),
    "nf4": (BNB, packers.bitsandbytes_4bit),
    "nf4, nested": (BNB, partial(packers.bitsandbytes_4bit, nested=True)),
    "8 bits": (
        {"quant_method": "bitsandbytes", "_load_in_8bit": True},
        packers.bitsandbytes_int8,
    ),
}


def quantised_tensors(pack, tensors, seed=0):
    """Tensors of a folder whose matrices are packed, and the tensors that they stand for.

    Args:
        pack: one of the packers.
        tensors: of the model, by Hugging Face's names; of matrices only the shapes matter.
        seed: of codes and scales.
    """
    rng, written, dense = np.random.default_rng(seed), {}, {}
    for name, array in tensors.items():
        dense[name] = array
        if not name.endswith("_proj.weight"):
            written[name] = array
            continue
        parts, dense[name] = pack(rng, array.shape)
        module = name.removesuffix(".weight")
        written |= {f"{module}.{role}": part for role, part in parts.items()}
    return written, dense
