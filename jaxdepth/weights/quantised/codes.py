"""Codes of a few bits out of 32-bit words, and the scales that blocks of them share."""

import math

import numpy as np
from jaxtyping import Float, Integer, Num

_ROWS = 256  # whose scales are spread over the inputs at once


def unpack_bits(words: Integer[np.ndarray, "words ..."], bits: int) -> np.ndarray:
    """Unpack codes along the first axis, lowest bits first; a code may span two words.

    Args:
        words: of 32 bits each.
        bits: of a code: 2, 3, 4 or 8.

    Returns:
        uint8, 32 / bits codes for every word.
    """
    period = bits // math.gcd(bits, 32)  # so many words hold a whole number of codes
    count = 32 * period // bits
    groups = words.view(np.uint32).reshape(-1, period, *words.shape[1:])
    codes = np.empty((len(groups), count, *words.shape[1:]), np.uint8)
    for number in range(count):
        word, shift = divmod(number * bits, 32)
        code = groups[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            code |= groups[:, word + 1] << np.uint32(32 - shift)
        codes[:, number] = code & np.uint32(2**bits - 1)
    return codes.reshape(-1, *words.shape[1:])


def scale_blocks(
    codes_OI: Num[np.ndarray, "O I"],
    scale: Num[np.ndarray, "R G"],
    block: tuple[int, int],
    zero: Num[np.ndarray, "R G"] | None = None,
) -> Float[np.ndarray, "O I"]:
    """(codes - zero) * scale in float32, with one scale and zero for a block of (rows, columns)."""
    outputs, columns = len(codes_OI), block[1]
    rows = min(block[0], outputs)  # a file may say any number
    weight_OI = codes_OI.astype(np.float32, order="C")
    scale_OG = np.repeat(scale.astype(np.float32), rows, axis=0)[:outputs]
    zero_OG = None if zero is None else np.repeat(zero.astype(np.float32), rows, axis=0)[:outputs]
    for group in range(scale.shape[1]):
        part = weight_OI[:, group * columns : (group + 1) * columns]
        if zero_OG is not None:
            part -= zero_OG[:, group : group + 1]
        part *= scale_OG[:, group : group + 1]
    return weight_OI


def scale_groups(
    codes_OI: Num[np.ndarray, "O I"],
    scale_OG: Num[np.ndarray, "O G"],
    group_of_I: Integer[np.ndarray, " I"],
    zero_OG: Num[np.ndarray, "O G"] | None = None,
) -> Float[np.ndarray, "O I"]:
    """(codes - zero) * scale in float32, where every input names its group."""
    weight_OI = codes_OI.astype(np.float32, order="C")
    for start in range(0, len(weight_OI), _ROWS):
        rows = slice(start, start + _ROWS)
        if zero_OG is not None:
            weight_OI[rows] -= zero_OG[rows].astype(np.float32)[:, group_of_I]
        weight_OI[rows] *= scale_OG[rows].astype(np.float32)[:, group_of_I]
    return weight_OI
