"""bitsandbytes: 4 bits by a table of 16 values (nf4, fp4), or 8 bits with a scale for each output.

4 bits: `weight` holds two codes a byte, the first in the higher half, of the flattened matrix;
`weight.absmax` has a scale for each block of them, which with nested (double) quantisation is a
code of 8 bits itself:

    absmax = nested_quant_map[absmax] * nested_absmax + nested_offset
    weight = quant_map[code] * absmax

8 bits: `weight` int8 (O, I), and `SCB` (O,): weight = code * SCB / 127.

Source: the library's `functional.py` (`QuantState`) and `nn/modules.py` (`Linear8bitLt`).
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8

from jaxdepth.errors import InputError
from jaxdepth.weights.quantised.packed import (
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

# The tensors of a file say how each weight is quantised.
_HARMLESS = (
    "load_in_4bit load_in_8bit _load_in_4bit _load_in_8bit bnb_4bit_compute_dtype "
    "bnb_4bit_quant_storage bnb_4bit_quant_type bnb_4bit_use_double_quant llm_int8_threshold "
    "llm_int8_skip_modules llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight"
).split()
_STATE = "weight.quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_PLAIN = {"quant_type", "blocksize", "dtype", "shape"}
_NESTED = _PLAIN | {"nested_blocksize", "nested_dtype", "nested_offset"}
_MAX_BLOCK = 2**20
_MAX_STATE = 2**16  # bytes


def find_bitsandbytes(settings: Settings, headers: Headers, read: Reader) -> Found:
    """The bitsandbytes weights of a source.

    Raises:
        InputError: a setting is unknown, or a tensor is missing or of a wrong shape.
    """
    check_settings(settings, _HARMLESS, {})
    packed, ignored = {}, set()
    for module in modules_with(headers, "SCB"):
        parts = parts_of(module, headers, ["weight", "SCB"], ["weight_format"])
        shape = headers[parts["weight"]].shape
        check_part(parts["weight"], headers, ["I8"], (*shape, 0, 0)[:2])
        check_part(parts["SCB"], headers, ["F32", "F16", "BF16"], shape[:1])
        if "weight_format" in parts:
            name = parts.pop("weight_format")
            if read(name).reshape(-1).tolist() != [0]:
                raise InputError(f"{name} is not 0: only rows in order are implemented")
            ignored.add(name)
        packed[parts["weight"]] = Packed(
            shape, parts, lambda arrays: dequantise_int8(arrays["weight"], arrays["SCB"])
        )
    for kind in _KINDS:
        for name in headers:
            module, found, rest = name.rpartition(f".{_STATE}{kind}")
            if found and not rest:
                packed[f"{module}.weight"] = _packed_4bit(module, kind, headers, read)
                ignored.add(name)
    return Found(packed, frozenset(ignored))


def dequantise_4bit(
    packed: UInt8[np.ndarray, " B"],
    quant_map: Float[np.ndarray, "16"],
    absmax: Float[np.ndarray, " N"],
    blocksize: int,
    shape: tuple[int, int],
) -> Float[np.ndarray, "O I"]:
    """The weight of a 4-bit layer in float32.

    Args:
        packed: two codes a byte, the first in the higher half.
        quant_map: the value of each code.
        absmax: the scale of each block of codes.
        blocksize: codes in a block; the last block may be shorter.
        shape: of the weight.
    """
    table = quant_map.astype(np.float32)
    pairs = np.stack([table[np.arange(256) >> 4], table[np.arange(256) & 15]], axis=1)
    weight = pairs[packed].reshape(-1)[: math.prod(shape)]
    whole = weight.size // blocksize * blocksize
    weight[:whole].reshape(-1, blocksize)[:] *= absmax[: whole // blocksize, None]
    weight[whole:] *= absmax[-1]
    return weight.reshape(shape)


def nested_absmax(
    codes: UInt8[np.ndarray, " N"],
    quant_map: Float[np.ndarray, "256"],
    scales: Float[np.ndarray, " M"],
    blocksize: int,
    offset: float,
) -> Float[np.ndarray, " N"]:
    """The scales of blocks, which are codes of 8 bits in blocks with scales themselves."""
    scale_N = np.repeat(scales.astype(np.float32), blocksize)[: codes.size]
    return quant_map.astype(np.float32)[codes] * scale_N + np.float32(offset)


def dequantise_int8(
    weight: Integer[np.ndarray, "O I"], scb: Float[np.ndarray, " O"]
) -> Float[np.ndarray, "O I"]:
    """The weight of an 8-bit layer in float32: `scb` is the largest value of each output."""
    return weight.astype(np.float32) * (scb.astype(np.float32) / np.float32(127))[:, None]


def _packed_4bit(module: str, kind: str, headers: Headers, read: Reader) -> Packed:
    roles = ["weight", "weight.absmax", "weight.quant_map"]
    nested = ["weight.nested_absmax", "weight.nested_quant_map"]
    is_nested = f"{module}.weight.nested_absmax" in headers
    parts = parts_of(module, headers, roles + (nested if is_nested else []))
    name = f"{module}.{_STATE}{kind}"
    size = math.prod(headers[name].shape)
    check_part(name, headers, ["U8"], (min(size, _MAX_STATE),))
    state = _read_state(name, kind, is_nested, read)
    shape, block = tuple(state["shape"]), state["blocksize"]
    count = math.prod(shape)
    blocks = -(-count // block)
    stored = headers[parts["weight"]]
    if stored.dtype != "U8":  # bnb_4bit_quant_storage: bytes in another dtype
        width = {"I8": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}.get(stored.dtype, 0)
        if math.prod(stored.shape) * width != -(-count // 2):
            raise InputError(
                f"tensor {parts['weight']} is {stored.dtype} {stored.shape}, expected "
                f"{-(-count // 2)} bytes"
            )
    else:
        size = -(-count // 2)
        check_part(parts["weight"], headers, ["U8"], (size, 1), (1, size), (size,))
    check_part(parts["weight.quant_map"], headers, ["F32"], (16,))
    check_part(parts["weight.absmax"], headers, ["U8" if is_nested else "F32"], (blocks,))
    if is_nested:
        check_part(parts["weight.nested_quant_map"], headers, ["F32"], (256,))
        outer = -(-blocks // state["nested_blocksize"])
        check_part(parts["weight.nested_absmax"], headers, ["F32"], (outer,))
    return Packed(shape, parts, partial(_dequantise, state=state))


def _read_state(name: str, kind: str, is_nested: bool, read: Reader) -> Mapping[str, Any]:
    """The settings of one weight, which the file has as JSON in a tensor of bytes.

    Raises:
        InputError: they are damaged, or have something unknown.
    """
    try:
        state = json.loads(read(name).tobytes())
        expected = _NESTED if is_nested else _PLAIN
        sizes = [*state["shape"], state["blocksize"], state.get("nested_blocksize", 1)]
        is_valid = (
            set(state) == expected
            and state["quant_type"] == kind
            and len(state["shape"]) == 2
            and all(type(size) is int and size > 0 for size in sizes)
            and max(sizes[2:]) <= _MAX_BLOCK
            and math.isfinite(state.get("nested_offset", 0.0))
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        is_valid = False
    if not is_valid:
        raise InputError(f"tensor {name} is damaged, or has settings that are not implemented")
    return state


def _dequantise(arrays: Arrays, state: Mapping[str, Any]) -> np.ndarray:
    absmax = arrays["weight.absmax"]
    if "nested_blocksize" in state:
        absmax = nested_absmax(
            absmax,
            arrays["weight.nested_quant_map"],
            arrays["weight.nested_absmax"],
            state["nested_blocksize"],
            state["nested_offset"],
        )
    return dequantise_4bit(
        np.ascontiguousarray(arrays["weight"]).reshape(-1).view(np.uint8),
        arrays["weight.quant_map"],
        absmax,
        state["blocksize"],
        tuple(state["shape"]),
    )
