"""GPTQ: codes of 2, 3, 4 or 8 bits packed along the inputs, zero points along the outputs.

    qweight (I bits / 32, O)   zeros: qzeros (G, O bits / 32)   scales (G, O)   g_idx (I,)
    weight[i, o] = (code[i, o] - zero[g_idx[i], o]) * scale[g_idx[i], o]

The first version of the format has every zero point stored less one. Sources: AutoGPTQ's
`nn_modules/qlinear/qlinear_cuda_old.py`; GPTQModel's `nn_modules/qlinear/__init__.py` and
`utils/model.py` (`convert_gptq_v1_to_v2_format_module`: its 3-bit form wraps each code, the others
add to whole words).
"""

import math
from functools import partial

import numpy as np
from jaxtyping import Float, Integer, Num

from jaxdepth.errors import InputError
from jaxdepth.weights.quantised.codes import scale_groups, unpack_bits
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
    "bits group_size checkpoint_format format desc_act sym static_groups damp_percent "
    "damp_auto_increment true_sequential lm_head model_name_or_path model_file_base_name meta "
    "tokenizer dataset block_name_to_quantize module_name_preceding_first_block "
    "modules_in_block_to_quantize batch_size pad_token_id use_exllama disable_exllama "
    "exllama_config use_cuda_fp16 max_input_length cache_block_outputs model_seqlen backend "
    "act_group_aware hyb_act mse method awq_gemm_checkpoint"
).split()
_ONLY = {"pack_dtype": ("int32", None)}
FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a stored zero point


def find_gptq(settings: Settings, headers: Headers, _read: Reader) -> Found:
    """The GPTQ weights of a source.

    Raises:
        InputError: a setting is unknown, or a tensor is missing or of a wrong shape.
    """
    check_settings(settings, _HARMLESS, _ONLY)
    kind = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if not isinstance(kind, str) or kind not in FORMATS:
        raise InputError(
            f"GPTQ in the format {kind!r} is not implemented, only {', '.join(FORMATS)}"
        )
    bits = whole_number(settings, "bits")
    if bits not in (2, 3, 4, 8):
        raise InputError(f"GPTQ of {bits} bits is not implemented, only of 2, 3, 4 and 8")
    size = whole_number(settings, "group_size", default=128)
    packed = {}
    for module in modules_with(headers, "qweight"):
        parts = parts_of(module, headers, ["qweight", "qzeros", "scales"], ["g_idx"])
        rows, outputs = (*headers[parts["qweight"]].shape, 0, 0)[:2]
        inputs = rows * 32 // bits
        whole = 32 // math.gcd(bits, 32)  # so many zero points fill whole words
        if outputs % whole:
            raise InputError(
                f"{parts['qweight']} has {outputs} outputs, expected a multiple of {whole}"
            )
        groups = 1 if size < 1 else -(-inputs // size)
        check_part(parts["qweight"], headers, ["I32"], (inputs * bits // 32, outputs))
        check_part(parts["qzeros"], headers, ["I32"], (groups, outputs * bits // 32))
        check_part(parts["scales"], headers, ["F16", "BF16", "F32"], (groups, outputs))
        if "g_idx" in parts:
            check_part(parts["g_idx"], headers, ["I32", "I64"], (inputs,))
        packed[f"{module}.weight"] = Packed(
            (outputs, inputs),
            parts,
            partial(_dequantise, bits=bits, size=max(size, 0) or inputs, added=FORMATS[kind]),
        )
    return Found(packed, frozenset())


def dequantise_gptq(
    qweight: Integer[np.ndarray, "W O"],
    qzeros: Integer[np.ndarray, "G Z"],
    scales: Num[np.ndarray, "G O"],
    g_idx: Integer[np.ndarray, " I"],
    bits: int,
    added: int = 0,
) -> Float[np.ndarray, "O I"]:
    """The weight of a GPTQ layer in float32, outputs first.

    Args:
        qweight: codes, packed along the inputs.
        qzeros: zero points, packed along the outputs.
        scales: of each group and output.
        g_idx: the group of each input.
        bits: of a code.
        added: to every stored zero point: 1 in the first version of the format.
    """
    words = qzeros.view(np.uint32)
    if added and bits != 3:
        words = words + np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
    zeros_OG = unpack_bits(np.ascontiguousarray(words.T), bits)
    if added and bits == 3:
        zeros_OG = (zeros_OG + 1) & 7
    codes_IO = unpack_bits(qweight, bits)
    return scale_groups(codes_IO.T, scales.T, g_idx, zeros_OG)


def _dequantise(arrays: Arrays, bits: int, size: int, added: int) -> np.ndarray:
    groups, inputs = len(arrays["scales"]), len(arrays["qweight"]) * 32 // bits
    g_idx = arrays.get("g_idx", np.arange(inputs) // size)
    if g_idx.size and not 0 <= g_idx.min() <= g_idx.max() < groups:
        raise InputError(f"g_idx names groups up to {g_idx.max()}, expected 0 to {groups - 1}")
    return dequantise_gptq(
        arrays["qweight"], arrays["qzeros"], arrays["scales"], g_idx, bits, added
    )
