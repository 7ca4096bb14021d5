"""FP8 weights with a scale for the tensor, for each output, or for each block.

`weight_scale_inv` multiplies in spite of its name: DeepSeek has it for blocks of 128 x 128, and
Ministral 3 for whole tensors. Sources: transformers' `integrations/finegrained_fp8.py`; vLLM's
`layers/quantization/fp8.py` (`weight_scale`).
"""

from functools import partial
from reprlib import repr as short

import numpy as np
from jaxtyping import Float, Num

from jaxdepth.errors import InputError
from jaxdepth.weights.quantised.codes import scale_blocks
from jaxdepth.weights.quantised.packed import (
    ACTIVATIONS,
    Arrays,
    Found,
    Headers,
    Packed,
    Reader,
    Settings,
    check_part,
    check_settings,
    modules_with,
    parts_of,
)

FP8 = ("F8_E4M3", "F8_E5M2")
SCALES = ("F32", "BF16", "F16", "F8_E8M0")
_HARMLESS = (
    "activation_scheme",
    "modules_to_not_convert",
    "modules_to_convert",
    "ignored_layers",
    "weight_block_size",
    "dequantize",
    "scale_fmt",
    "fmt",
    "kv_cache_scheme",
)
_ONLY = {"expert_dtype": ("fp8", None), "is_checkpoint_fp8_serialized": (True,)}


def find_fp8(settings: Settings, headers: Headers, _read: Reader) -> Found:
    """The FP8 weights of a source.

    Raises:
        InputError: a setting is unknown, a weight has no scale, or one of a wrong shape.
    """
    check_settings(settings, _HARMLESS, _ONLY)
    block = settings.get("weight_block_size")
    packed = {}
    for module in modules_with(headers, "weight_scale_inv", "weight_scale"):
        parts = parts_of(module, headers, ["weight"], ["weight_scale_inv", "weight_scale"])
        scale = [name for role, name in parts.items() if role != "weight"]
        if len(scale) != 1:
            raise InputError(f"{module} has both {' and '.join(scale)}: expected one of them")
        weight = headers[parts["weight"]]
        check_part(parts["weight"], headers, FP8, (*weight.shape, 0, 0)[:2])
        size = block_size(scale[0], headers, weight.shape, block)
        packed[parts["weight"]] = Packed(
            weight.shape,
            {"weight": parts["weight"], "scale": scale[0]},
            partial(_dequantise, block=size),
        )
    ignored = {name for name in headers if name.rpartition(".")[2] in ACTIVATIONS}
    return Found(packed, frozenset(ignored))


def block_size(
    scale: str, headers: Headers, shape: tuple[int, ...], block: list[int] | None
) -> tuple[int, int]:
    """How many rows and columns of a weight share a scale, by the scale's shape.

    Args:
        scale: name of the tensor of scales.
        headers: of the source.
        shape: of the weight.
        block: rows and columns, if the source has blocks.

    Raises:
        InputError: the scales are of no such shape.
    """
    (outputs, inputs), given = shape, headers[scale].shape
    expected = {(): (outputs, inputs), (1,): (outputs, inputs), (1, 1): (outputs, inputs)}
    if block is not None:
        if not is_block(block):
            raise InputError(f"weight_block_size is {short(block)}, expected two positive numbers")
        rows, columns = block
        expected = {(-(-outputs // rows), -(-inputs // columns)): (rows, columns)}
    elif given not in expected:
        expected |= {(outputs,): (1, inputs), (outputs, 1): (1, inputs)}
    check_part(scale, headers, SCALES, *expected)
    return expected[given]


def is_block(given: object) -> bool:
    """Whether a setting is the rows and columns of a block."""
    return (
        isinstance(given, list)
        and len(given) == 2
        and all(type(size) is int and size > 0 for size in given)
    )


def dequantise_fp8(
    weight_OI: Num[np.ndarray, "O I"], scale: Num[np.ndarray, "*R"], block: tuple[int, int]
) -> Float[np.ndarray, "O I"]:
    """FP8 values times their scales, in float32.

    Args:
        weight_OI: of a float8 dtype.
        scale: one, one for each output, or one for each block.
        block: (rows, columns) that share a scale.
    """
    outputs, inputs = weight_OI.shape
    rows, columns = block
    grid = -(-outputs // rows), -(-inputs // columns)
    return scale_blocks(weight_OI, scale.reshape(grid), block)


def _dequantise(arrays: Arrays, block: tuple[int, int]) -> np.ndarray:
    return dequantise_fp8(arrays["weight"], arrays["scale"], block)
