"""What the tensors of a quantised module stand for, by the plainest code: twins of the packers.

Each takes the settings of a config.json and the arrays of one module by their roles, and returns
the weight (outputs, inputs) in float32. What is wrong with them is not checked.
"""

import json

import numpy as np
from packing.packers import AWQ_OUTPUTS


def codes_of(words, bits: int) -> np.ndarray:
    """The codes in int32 along the first axis, one bit at a time, the lowest first."""
    raw = np.ascontiguousarray(words.T).view(np.uint8)
    bits_of = np.unpackbits(raw, axis=1, bitorder="little")
    count = bits_of.shape[1] // bits
    grouped = bits_of[:, : count * bits].reshape(len(raw), count, bits)
    return (grouped.astype(np.int64) @ (1 << np.arange(bits))).T


def spread(scale, shape) -> np.ndarray:
    """One value for each block of a weight, as one for each number."""
    if scale.ndim < 2:
        scale = scale.reshape(-1, 1)
    rows, columns = (-(-size // count) for size, count in zip(shape, scale.shape, strict=True))
    whole = np.kron(scale.astype(np.float32), np.ones((rows, columns), np.float32))
    return whole[: shape[0], : shape[1]]


def gptq(settings, parts):
    bits, words = settings["bits"], parts["qzeros"].view(np.uint32)
    is_first = (settings.get("checkpoint_format") or settings.get("format") or "gptq") == "gptq"
    if is_first and bits != 3:  # a carry goes into the next code, as in the libraries
        words = words + np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
    zeros = codes_of(words.view(np.int32).T, bits).T
    if is_first and bits == 3:
        zeros = zeros + 1 & 7
    codes = codes_of(parts["qweight"], bits)
    size = settings.get("group_size")
    size = 128 if size is None else size if size > 0 else len(codes)
    groups = parts.get("g_idx", np.arange(len(codes)) // size)
    scales = parts["scales"].astype(np.float32)
    return ((codes - zeros[groups]).astype(np.float32) * scales[groups]).T


def awq(settings, parts):
    def unpacked(words):
        in_words = codes_of(words.T, 4).T.reshape(len(words), -1, 8)
        ordered = np.empty_like(in_words)
        ordered[:, :, AWQ_OUTPUTS] = in_words
        return ordered.reshape(len(words), -1)

    codes, zeros = unpacked(parts["qweight"]).T, unpacked(parts["qzeros"]).T
    size = next((settings[k] for k in ("group_size", "q_group_size") if settings.get(k)), 128)
    groups = np.arange(codes.shape[1]) // (size if size > 0 else codes.shape[1])
    scales = parts["scales"].astype(np.float32).T
    return (codes - zeros[:, groups]).astype(np.float32) * scales[:, groups]


def fp8(settings, parts):
    values = parts["weight"].astype(np.float32)
    scale = next(parts[role] for role in ("weight_scale_inv", "weight_scale") if role in parts)
    block = settings.get("weight_block_size")
    if block is None:
        return values * spread(scale, values.shape)
    rows, columns = (np.arange(n) // size for n, size in zip(values.shape, block, strict=True))
    return values * scale.astype(np.float32)[rows][:, columns]


def integers(settings, parts):
    """compressed-tensors; the bits of packed codes are those that fill the words."""
    scale = parts["weight_scale"]
    zero = parts.get("weight_zero_point")
    if "weight" in parts:
        codes = parts["weight"].astype(np.float32)
    else:
        outputs, inputs = map(int, parts["weight_shape"])
        bits = 8 if parts["weight_packed"].shape[1] == -(-inputs // 4) else 4
        codes = codes_of(parts["weight_packed"].T, bits)[:inputs].T - 2 ** (bits - 1)
        if zero is not None and zero.dtype == np.int32:
            rows = outputs if scale.shape[0] == outputs else scale.shape[0]
            zero = codes_of(zero, bits)[:rows] - 2 ** (bits - 1)
    groups = parts.get("weight_g_idx")
    if groups is not None and (groups >= 0).all():
        scale_of = scale.astype(np.float32)[:, groups]
        zero_of = 0 if zero is None else zero.astype(np.float32)[:, groups]
    else:
        scale_of = spread(scale, codes.shape)
        zero_of = 0 if zero is None else spread(zero, codes.shape)
    return (codes.astype(np.float32) - zero_of) * scale_of


def bitsandbytes(settings, parts):
    if "SCB" in parts:
        largest = parts["SCB"].astype(np.float32)
        return parts["weight"].astype(np.float32) * (largest / np.float32(127))[:, None]
    (text,) = (array for role, array in parts.items() if "quant_state" in role)
    state = json.loads(text.tobytes())
    absmax = parts["weight.absmax"]
    if "nested_blocksize" in state:
        outer = parts["weight.nested_absmax"][np.arange(len(absmax)) // state["nested_blocksize"]]
        table = parts["weight.nested_quant_map"]
        absmax = table[absmax] * outer + np.float32(state["nested_offset"])
    raw = np.frombuffer(parts["weight"].tobytes(), np.uint8)
    codes = np.stack([raw >> 4, raw & 15], axis=1).reshape(-1)[: np.prod(state["shape"])]
    blocks = np.arange(len(codes)) // state["blocksize"]
    return (parts["weight.quant_map"][codes] * absmax[blocks]).reshape(state["shape"])
