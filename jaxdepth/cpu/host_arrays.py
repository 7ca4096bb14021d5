"""Arrays of the host that a CPU device takes over as they are.

Numpy asks for large pages where an array is large, XLA does not: filling a model's weights here is
quicker than in the device's own memory.
"""

import numpy as np

_ALIGNMENT = 64  # bytes: what XLA wants of an array that it does not copy
_ROWS, _COLUMNS = 64, 512  # of a block that stays in the processor's cache while it is turned


def aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array that is not filled yet, in memory that XLA can use without a copy."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def fill_turned(target: np.ndarray, array: np.ndarray) -> None:
    """Writes the transpose of an array of one or two axes to `target`, in its dtype."""
    if array.ndim == 1:
        target[...] = array
        return
    if target.dtype == array.dtype:  # as whole numbers: quicker than numbers numpy does not know
        plain = np.dtype(f"u{array.dtype.itemsize}")
        target, array = target.view(plain), array.view(plain)
    for i in range(0, array.shape[0], _ROWS):
        for j in range(0, array.shape[1], _COLUMNS):
            block = array[i : i + _ROWS, j : j + _COLUMNS]
            target[j : j + _COLUMNS, i : i + _ROWS] = block.T
