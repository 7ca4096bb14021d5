"""Quantised layers written by the plainest code: bit by bit, from each format's specification.

Each packer draws codes, scales and zero points at random, and returns the tensors of one module and
the weight (outputs, inputs) that they stand for.
"""

import json
from itertools import product

import ml_dtypes
import numpy as np

# The 16 values of nf4: Dettmers et al. 2023 (arXiv:2305.14314), appendix E.
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)


def scales_of(rng, shape, dtype=np.float16):
    return (0.01 + 0.01 * rng.random(shape)).astype(dtype)


def pack_rows(codes, bits: int) -> np.ndarray:
    """Codes in int32 along the first axis, one bit at a time, the lowest first."""
    rows, columns = codes.shape
    words = np.zeros((-(-rows * bits // 32), columns), np.uint64)
    for row, bit in product(range(rows), range(bits)):
        word, place = divmod(row * bits + bit, 32)
        words[word] |= ((codes[row].astype(np.uint64) >> bit) & 1) << place
    return words.astype(np.uint32).view(np.int32)


def gptq(rng, shape, bits=4, size=32, version=1, order=False):
    """With `order` (desc_act), inputs are grouped in a random order; version 1 stores zeros - 1."""
    outputs, inputs = shape
    groups = 1 if size < 1 else -(-inputs // size)
    g_idx = np.zeros(inputs, np.int32) if size < 1 else np.arange(inputs, dtype=np.int32) // size
    if order:
        g_idx = rng.permutation(g_idx)
    codes = rng.integers(0, 2**bits, (inputs, outputs))
    zeros = rng.integers(1, 2**bits, (groups, outputs))  # version 1 cannot say 0 in every tool
    scales = scales_of(rng, (groups, outputs))
    weight = np.empty(shape, np.float32)
    for o, i in product(range(outputs), range(inputs)):
        g = g_idx[i]
        weight[o, i] = np.float32(int(codes[i, o]) - int(zeros[g, o])) * np.float32(scales[g, o])
    stored = zeros - (version == 1)
    return {
        "qweight": pack_rows(codes, bits),
        "qzeros": np.ascontiguousarray(pack_rows(stored.T, bits).T),
        "scales": scales,
        "g_idx": g_idx,
    }, weight


def awq(rng, shape, size=32):
    outputs, inputs = shape
    groups = 1 if size < 1 else inputs // size
    codes = rng.integers(0, 16, (inputs, outputs))
    zeros = rng.integers(0, 16, (groups, outputs))
    scales = scales_of(rng, (groups, outputs))

    def pack(values):
        words = np.zeros((len(values), outputs // 8), np.uint32)
        for column, place in product(range(outputs // 8), range(8)):
            code = values[:, 8 * column + AWQ_OUTPUTS[place]].astype(np.uint32)
            words[:, column] |= code << np.uint32(4 * place)
        return words.view(np.int32)

    weight = np.empty(shape, np.float32)
    for o, i in product(range(outputs), range(inputs)):
        g = 0 if size < 1 else i // size
        weight[o, i] = np.float32(int(codes[i, o]) - int(zeros[g, o])) * np.float32(scales[g, o])
    return {"qweight": pack(codes), "qzeros": pack(zeros), "scales": scales}, weight


def fp8(rng, shape, block=None, scale="weight_scale_inv", dtype=np.float32, channel=False):
    outputs, inputs = shape
    values = rng.standard_normal(shape).astype(ml_dtypes.float8_e4m3fn)
    rows, columns = block or ((1, inputs) if channel else shape)
    grid = -(-outputs // rows), -(-inputs // columns)
    scales = scales_of(rng, grid, dtype)
    weight = np.empty(shape, np.float32)
    for o, i in product(range(outputs), range(inputs)):
        weight[o, i] = np.float32(values[o, i]) * np.float32(scales[o // rows, i // columns])
    flat = scales if block or channel else scales.reshape(())
    return {"weight": values, scale: flat}, weight


def integers(
    rng, shape, bits=8, grid=None, packed=False, zero=False, dtype=np.float32, order=False
):
    """compressed-tensors: codes from -2^(bits - 1), one scale for each cell of a grid.

    With `order` (actorder "group") the columns of the grid are of inputs in a random order.
    """
    outputs, inputs = shape
    grid = grid or (1, 1)
    rows, columns = outputs // grid[0], inputs // grid[1]
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, shape)
    zeros = rng.integers(-half, half, grid) if zero else np.zeros(grid, int)
    # So that weights are as large with 8 bits as with 4.
    scales = (scales_of(rng, grid, np.float64) * 8 / half).astype(dtype)
    weight = np.empty(shape, np.float32)
    group_of = np.arange(inputs) // columns
    if order:
        group_of = rng.permutation(group_of)
    for o, i in product(range(outputs), range(inputs)):
        cell = o // rows, group_of[i]
        weight[o, i] = np.float32(codes[o, i] - zeros[cell]) * np.float32(scales[cell])
    tensors = {"weight_scale": scales}
    if order:
        tensors["weight_g_idx"] = group_of.astype(np.int32)
    if packed:
        tensors["weight_packed"] = np.ascontiguousarray(pack_rows((codes + half).T, bits).T)
        tensors["weight_shape"] = np.array(shape)
    else:
        tensors["weight"] = codes.astype(np.int8)
    if zero:
        stored = pack_rows(zeros + half, bits) if packed else zeros.astype(np.int8)
        tensors["weight_zero_point"] = stored
    return tensors, weight


def bitsandbytes_4bit(rng, shape, nested=False, blocksize=64):
    count = shape[0] * shape[1]
    codes = rng.integers(0, 16, count)
    blocks = -(-count // blocksize)
    state = {"quant_type": "nf4", "blocksize": blocksize, "dtype": "bfloat16", "shape": list(shape)}
    tensors = {"weight.quant_map": NF4}
    if nested:
        table = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        small = rng.integers(0, 256, blocks).astype(np.uint8)
        outer = rng.uniform(0.1, 0.2, -(-blocks // 8)).astype(np.float32)
        absmax = np.array([table[c] * outer[n // 8] for n, c in enumerate(small)]) + np.float32(0.5)
        state |= {"nested_blocksize": 8, "nested_dtype": "float32", "nested_offset": 0.5}
        tensors |= {
            "weight.absmax": small,
            "weight.nested_absmax": outer,
            "weight.nested_quant_map": table,
        }
    else:
        absmax = rng.uniform(0.1, 0.9, blocks).astype(np.float32)
        tensors["weight.absmax"] = absmax
    weight = np.array([NF4[c] * absmax[n // blocksize] for n, c in enumerate(codes)], np.float32)
    pairs = codes.reshape(-1, 2)
    tensors["weight"] = (pairs[:, 0] * 16 + pairs[:, 1]).astype(np.uint8)[:, None]
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    tensors["weight.quant_state.bitsandbytes__nf4"] = text
    return tensors, weight.reshape(shape)


def bitsandbytes_int8(rng, shape):
    codes = rng.integers(-127, 128, shape).astype(np.int8)
    largest = rng.uniform(0.1, 0.9, shape[0]).astype(np.float32)
    weight = codes * (largest / np.float32(127))[:, None]
    tensors = {"weight": codes, "SCB": largest, "weight_format": np.zeros((), np.uint8)}
    return tensors, weight.astype(np.float32)
