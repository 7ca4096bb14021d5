"""compressed-tensors: integers or FP8 as they are, or integers of 4 and 8 bits packed in words.

    weight (O, I) int8 or float8, or weight_packed (O, I bits / 32) with weight_shape
    weight_scale: one, one an output (O, 1), one a group (O, G), or one a block
    weight_zero_point: as the scale; packed along the outputs where the weight is packed
    weight[o, i] = (code - zero) * scale

Source: the library's `compressors/naive_quantized`, `compressors/pack_quantized` and
`quantization/quant_args.py`. Which of several groups of settings a weight belongs to shows in the
shapes of its tensors, so that the patterns of names that a file brings are not run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.weights.quantised.codes import scale_blocks, scale_groups, unpack_bits
from jaxdepth.weights.quantised.fp8 import FP8, SCALES, is_block
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
    whole_number,
)

_HARMLESS = (
    "config_groups",
    "format",
    "ignore",
    "quantization_status",
    "global_compression_ratio",
    "kv_cache_scheme",
    "run_compressed",
    "version",
)
_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mixed-precision",
)
_OF_WEIGHTS = (
    "num_bits type symmetric strategy group_size block_structure dynamic observer observer_kwargs "
    "actorder scale_dtype zp_dtype"
).split()
_OF_GROUPS = ("targets", "weights", "input_activations", "output_activations", "format")
_SPARSITY = {
    "format",
    "global_sparsity",
    "sparsity_structure",
    "ignore",
    "targets",
    "registry_requires_subclass",
}
_OPTIONAL = ("weight", "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx")


@dataclass(frozen=True)
class _Scheme:
    """How the weights of a group of modules are quantised."""

    bits: int
    is_float: bool
    symmetric: bool
    strategy: str  # tensor, channel, group or block
    size: int  # of a group
    block: tuple[int, int]
    ordered: bool  # whether inputs are grouped in an order of their own, weight_g_idx

    def block_of(self, outputs: int, inputs: int) -> tuple[int, int]:
        """How many rows and columns of a weight share a scale."""
        return {
            "tensor": (outputs, inputs),
            "channel": (1, inputs),
            "group": (1, self.size),
            "block": self.block,
        }[self.strategy]


class _Fit(NamedTuple):
    """A module's weight by one scheme, and what that scheme tells to dequantise it."""

    packed: Packed
    arguments: Mapping[str, Any]


def find_compressed_tensors(settings: Settings, headers: Headers, read: Reader) -> Found:
    """The quantised weights of a source.

    Raises:
        InputError: a setting is unknown, or a tensor is missing or fits no group of settings.
    """
    sparsity = settings.get("sparsity_config") or {}
    is_dense = isinstance(sparsity, Mapping) and sparsity.get("format", "dense") == "dense"
    only = {"sparsity_config": (sparsity,) if is_dense and set(sparsity) <= _SPARSITY else ()}
    check_settings(settings, _HARMLESS, only)
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise InputError("quantization_config lacks config_groups")
    schemes = _read_schemes(settings.get("format"), groups)
    packed = {
        f"{module}.weight": _fitting(module, schemes, headers, read)
        for module in modules_with(headers, "weight_scale")
    }
    ignored = {n for n in headers if n.rpartition(".")[2] in ACTIVATIONS | {"weight_shape"}}
    return Found(packed, frozenset(ignored))


def dequantise_integers(
    codes_OI: np.ndarray,
    scale: np.ndarray,
    block: tuple[int, int],
    zero: np.ndarray | None = None,
    group_of_I: np.ndarray | None = None,
) -> np.ndarray:
    """(codes - zero) * scale in float32, outputs first.

    Args:
        codes_OI: integers or float8.
        scale: by blocks of rows and columns.
        block: (rows, columns) that share a scale.
        zero: shaped as the scale; None is zero.
        group_of_I: the group of each input, where they are not in order.
    """
    if group_of_I is not None:
        return scale_groups(codes_OI, scale, group_of_I, zero)
    return scale_blocks(codes_OI, scale, block, zero)


def _read_schemes(kind: object, groups: Mapping) -> list[_Scheme]:
    """Those of all groups that quantise weights; some are for activations or the cache alone.

    Raises:
        InputError: a group is only the name of a preset, or a format or a setting is not known.
    """
    schemes = {}
    for name, group in groups.items():
        if not isinstance(group, Mapping):
            raise InputError(f"config_groups: {short(name)} is {short(group)}, expected settings")
        unknown = [key for key in group if key not in _OF_GROUPS and group[key] is not None]
        if unknown:
            raise InputError(
                f"config_groups: {short(name)} with {listed(unknown)}: not implemented"
            )
        for one in (kind, group.get("format")):
            if one is not None and one not in _FORMATS:
                raise InputError(
                    f"compressed-tensors in the format {short(one)} is not implemented, only "
                    f"{', '.join(_FORMATS)}"
                )
        if group.get("weights") is not None:
            schemes[_read_scheme(group["weights"])] = True
    if not schemes:
        raise InputError("no group of config_groups has settings for weights")
    return list(schemes)


def _read_scheme(weights: object) -> _Scheme:
    if not isinstance(weights, Mapping):
        raise InputError(f"config_groups: weights is {short(weights)}, expected an object")
    unknown = [name for name in weights if name not in _OF_WEIGHTS]
    bits, kind = whole_number(weights, "num_bits", default=8), weights.get("type", "int")
    size = whole_number(weights, "group_size", default=0)
    default = "group" if size > 0 else "channel" if size < 0 else "tensor"
    strategy, block = weights.get("strategy") or default, weights.get("block_structure")
    if isinstance(block, str):  # "128x128" in older files
        block = [int(b) if b.isdecimal() and len(b) < 9 else 0 for b in block.split("x")]
    order = weights.get("actorder") or "weight"
    order = "group" if order is True else order  # as older versions of the library have it
    ordered = order in ("group", "dynamic")
    is_known = (
        not unknown
        and (bits, kind) in ((4, "int"), (8, "int"), (8, "float"))
        and strategy in ("tensor", "channel", "group", "block")
        and (strategy != "group" or size > 0)
        and (strategy != "block" or is_block(block))
        and (order in ("weight", "static") or (ordered and strategy == "group"))
        and not weights.get("dynamic")
    )
    if not is_known:
        raise InputError(
            f"compressed-tensors weights of {bits} bits, type {short(kind)}, strategy "
            f"{short(strategy)}{' with ' + listed(unknown) if unknown else ''} are not "
            f"implemented: {short(dict(weights))}"
        )
    return _Scheme(
        bits=bits,
        is_float=kind == "float",
        symmetric=weights.get("symmetric", True) is not False,
        strategy=str(strategy),
        size=size,
        block=tuple(block) if strategy == "block" and block else (0, 0),
        ordered=ordered,
    )


def _fitting(module: str, schemes: list[_Scheme], headers: Headers, read: Reader) -> Packed:
    """The weight of a module, by the one scheme that the shapes of its tensors fit."""
    fitting, errors = [], []
    for scheme in schemes:
        try:
            fitting.append(_packed(module, scheme, headers, read))
        except InputError as error:
            errors.append(error)
    if not fitting:
        raise errors[0]
    first, *others = fitting
    if any(other.arguments != first.arguments for other in others):
        raise InputError(
            f"{module} fits several groups of quantization_config, whose patterns of names are not "
            "read: not implemented"
        )
    return first.packed


def _packed(module: str, scheme: _Scheme, headers: Headers, read: Reader) -> _Fit:
    parts = parts_of(module, headers, ["weight_scale"], _OPTIONAL)
    is_packed = "weight_packed" in parts
    if is_packed == ("weight" in parts) or (is_packed and "weight_shape" not in parts):
        raise InputError(
            f"{module} has {listed(list(parts))}: expected weight, or weight_packed and "
            "weight_shape"
        )
    if is_packed:
        check_part(parts["weight_shape"], headers, ["I64", "I32"], (2,))
        outputs, inputs = (int(size) for size in read(parts.pop("weight_shape")))
        words = -(-inputs * scheme.bits // 32)
        dtypes = [] if scheme.is_float else ["I32"]
        check_part(parts["weight_packed"], headers, dtypes, (outputs, words))
    else:
        outputs, inputs = (*headers[parts["weight"]].shape, 0, 0)[:2]
        check_part(parts["weight"], headers, FP8 if scheme.is_float else ["I8"], (outputs, inputs))
    rows, columns = scheme.block_of(outputs, inputs)
    if scheme.strategy == "group" and inputs > columns and inputs % columns:
        raise InputError(f"{module} has {inputs} inputs, no multiple of group_size {columns}")
    grid = -(-outputs // max(rows, 1)), -(-inputs // max(columns, 1))
    flat = [(), (1,)] if scheme.strategy == "tensor" else []
    check_part(parts["weight_scale"], headers, SCALES, grid, *flat)
    _check_zero(parts, scheme, headers, grid)
    if scheme.ordered and "weight_g_idx" not in parts:
        raise InputError(f"{module} has no weight_g_idx, but inputs in an order of their own")
    if "weight_g_idx" in parts:
        if scheme.strategy != "group":
            raise InputError(f"{module} has weight_g_idx, but the strategy {scheme.strategy!r}")
        check_part(parts["weight_g_idx"], headers, ["I32", "I64"], (inputs,))
    arguments: dict[str, Any] = {
        "shape": (outputs, inputs), "bits": scheme.bits, "block": (rows, columns), "grid": grid
    }  # fmt: skip
    return _Fit(Packed((outputs, inputs), parts, partial(_dequantise, **arguments)), arguments)


def _check_zero(parts: dict[str, str], scheme: _Scheme, headers: Headers, grid: tuple) -> None:
    name = parts.get("weight_zero_point")
    if name is None:
        if not scheme.symmetric:
            raise InputError(f"{parts['weight_scale']} has no weight_zero_point beside it")
    elif headers[name].dtype == "I32" and "weight_packed" in parts:
        check_part(name, headers, ["I32"], (-(-grid[0] * scheme.bits // 32), grid[1]))
    else:
        check_part(name, headers, ["I8", *FP8], grid, *([(), (1,)] if grid == (1, 1) else []))


def _dequantise(
    arrays: Arrays,
    shape: tuple[int, int],
    bits: int,
    block: tuple[int, int],
    grid: tuple[int, int],
) -> np.ndarray:
    """Unpack what is packed; codes and packed zero points are stored plus 2^(bits - 1)."""
    offset, zero = 2 ** (bits - 1), arrays.get("weight_zero_point")
    if zero is not None and zero.dtype == np.int32:
        zero = unpack_bits(zero, bits)[: grid[0]].astype(np.int16) - offset
    codes = arrays.get("weight")
    if codes is None:
        words = np.ascontiguousarray(arrays["weight_packed"].T)
        codes = unpack_bits(words, bits)[: shape[1]].T.astype(np.int16) - offset
    group_of_I = arrays.get("weight_g_idx")
    if group_of_I is not None:
        group_of_I = _checked_groups(group_of_I, grid[1], block[1])
    zero = None if zero is None else zero.reshape(grid)
    return dequantise_integers(codes, arrays["weight_scale"].reshape(grid), block, zero, group_of_I)


def _checked_groups(group_of_I: np.ndarray, count: int, size: int) -> np.ndarray | None:
    """The group of each input; None if the file leaves them in order, by a -1.

    Raises:
        InputError: a group does not exist, or has more inputs than the settings say.
    """
    first, last = group_of_I.min(initial=0), group_of_I.max(initial=0)
    if first < -1 or last >= count:
        raise InputError(
            f"g_idx names group {first if first < -1 else last}, expected 0 to {count - 1}"
        )
    if first == -1:
        return None
    largest = np.bincount(group_of_I, minlength=1).max()
    if largest > size:
        raise InputError(f"g_idx has {largest} inputs in one group, expected {size}")
    return group_of_I
