"""Numpy arrays that XLA on CPU can use without a copy.

Numpy requests huge pages for large arrays and XLA does not, so a model's weights are filled faster
in numpy's memory than in XLA's own.
"""

import numpy as np
from numpy.typing import DTypeLike

_ALIGNMENT = 64  # bytes: XLA copies an array that is aligned to less
_ROWS, _COLUMNS = 64, 512  # of a block that stays in the CPU's cache while it is transposed


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An uninitialised array, aligned as XLA wants it."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def fill_transposed(target: np.ndarray, array: np.ndarray) -> None:
    """Write the transpose of an array of one or two axes to `target`, cast to its dtype."""
    if array.ndim == 1:
        target[...] = array
        return
    if target.dtype == array.dtype:  # as unsigned integers: numpy is slow on types like bfloat16
        unsigned = np.dtype(f"u{array.dtype.itemsize}")
        target, array = target.view(unsigned), array.view(unsigned)
    for i in range(0, array.shape[0], _ROWS):
        for j in range(0, array.shape[1], _COLUMNS):
            block = array[i : i + _ROWS, j : j + _COLUMNS]
            target[j : j + _COLUMNS, i : i + _ROWS] = block.T
