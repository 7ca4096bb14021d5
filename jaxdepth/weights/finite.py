"""Check that weights are finite."""

from pathlib import Path

import ml_dtypes
import numpy as np

from jaxdepth.errors import InputError

_BLOCK = 2**17  # values; blocks that stay in the CPU's cache are several times faster


def check_finite(array: np.ndarray, name: str, file: Path) -> None:
    """Check a tensor of a file.

    Raises:
        InputError: it has values that are NaN or infinite.
    """
    flat = array.reshape(-1)
    count_bad = _count_bad
    if array.dtype == ml_dtypes.bfloat16:
        flat, count_bad = flat.view(np.uint16), _count_bad_bfloat16
    count = sum(count_bad(flat[i : i + _BLOCK]) for i in range(0, flat.size, _BLOCK))
    if count:
        raise InputError(
            f"tensor {name} in {file} holds {count} values that are NaN or infinite: "
            "the file is damaged or the training diverged"
        )


def _count_bad(values: np.ndarray) -> int:
    return int((~np.isfinite(values)).sum())


def _count_bad_bfloat16(bits: np.ndarray) -> int:
    """Of values given by their bits: all exponent bits are set in NaN and infinity."""
    return int(((bits & 0x7FFF) >= 0x7F80).sum())
