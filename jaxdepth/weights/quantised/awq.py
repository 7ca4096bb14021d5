"""AWQ in its `gemm` form: 4-bit codes and zero points packed along the outputs, interleaved.

    qweight (I, O / 8)   qzeros (G, O / 8)   scales (G, O)
    weight[i, o] = (code[i, o] - zero[i // size, o]) * scale[i // size, o]

Source: AutoAWQ's `modules/linear/gemm.py`: the codes of a word, lowest bits first, are of its
outputs 0, 2, 4, 6, 1, 3, 5, 7.
"""

from functools import partial

import numpy as np
from jaxtyping import Float, Integer, Num

from jaxdepth.errors import InputError
from jaxdepth.weights.quantised.codes import scale_blocks, unpack_bits
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
    whole_number,
)

_HARMLESS = (
    "bits w_bit group_size q_group_size version format checkpoint_format backend "
    "modules_to_not_convert do_fuse modules_to_fuse fuse_max_seq_len exllama_config tokenizer "
    "dataset damp_percent desc_act act_group_aware sym true_sequential meta model_seqlen "
    "block_name_to_quantize module_name_preceding_first_block batch_size pad_token_id "
    "max_input_length cache_block_outputs modules_in_block_to_quantize lm_head method"
).split()
_ONLY = {"zero_point": (True, None), "pack_dtype": ("int32", None)}
_OUTPUTS = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # of the codes of a word, lowest bits first
_CODES = np.argsort(_OUTPUTS)
_BITS, _PER_WORD = 4, 8


def find_awq(settings: Settings, headers: Headers, _read: Reader) -> Found:
    """The AWQ weights of a source.

    Raises:
        InputError: a setting is unknown, or a tensor is missing or of a wrong shape.
    """
    check_settings(settings, _HARMLESS, _ONLY)
    given = (settings.get(name) for name in ("version", "format", "checkpoint_format"))
    kinds = {str(kind).lower() for kind in given if kind is not None} or {"gemm"}
    if kinds != {"gemm"}:
        raise InputError(f"AWQ in the form {sorted(kinds)} is not implemented, only 'gemm'")
    bits = whole_number(settings, "bits", "w_bit", default=_BITS)
    if bits != _BITS:
        raise InputError(f"AWQ of {bits} bits is not implemented, only of 4")
    size = whole_number(settings, "group_size", "q_group_size", default=128)
    packed = {}
    for module in modules_with(headers, "qweight"):
        parts = parts_of(module, headers, ["qweight", "qzeros", "scales"])
        inputs, words = (*headers[parts["qweight"]].shape, 0, 0)[:2]
        outputs = words * _PER_WORD
        if size > 0 and inputs % size:
            raise InputError(f"{module} has {inputs} inputs, no multiple of group_size {size}")
        groups = 1 if size < 1 else inputs // size
        check_part(parts["qweight"], headers, ["I32"], (inputs, words))
        check_part(parts["qzeros"], headers, ["I32"], (groups, words))
        check_part(parts["scales"], headers, ["F16", "BF16", "F32"], (groups, outputs))
        packed[f"{module}.weight"] = Packed(
            (outputs, inputs), parts, partial(_dequantise, size=max(size, 0) or inputs)
        )
    return Found(packed, frozenset())


def dequantise_awq(
    qweight: Integer[np.ndarray, "I W"],
    qzeros: Integer[np.ndarray, "G W"],
    scales: Num[np.ndarray, "G O"],
    size: int,
) -> Float[np.ndarray, "O I"]:
    """The weight of an AWQ layer in float32, outputs first.

    Args:
        qweight: codes, eight outputs to a word.
        qzeros: zero points, likewise.
        scales: of each group and output.
        size: of a group of inputs.
    """
    return scale_blocks(_unpack(qweight), scales.T, (1, size), _unpack(qzeros))


def _unpack(words: Integer[np.ndarray, "X W"]) -> Integer[np.ndarray, "O X"]:
    codes = unpack_bits(np.ascontiguousarray(words.T), _BITS)
    in_order = codes.reshape(-1, _PER_WORD, codes.shape[1])[:, _CODES]
    return in_order.reshape(codes.shape)


def _dequantise(arrays: Arrays, size: int) -> np.ndarray:
    return dequantise_awq(arrays["qweight"], arrays["qzeros"], arrays["scales"], size)
