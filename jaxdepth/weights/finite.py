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
    count = sum(_count_bad(flat[i : i + _BLOCK]) for i in range(0, flat.size, _BLOCK))
    if count:
        raise InputError(
            f"tensor {name} in {file} holds {count} values that are NaN or infinite: "
            "the file is damaged or the training diverged"
        )


def _count_bad(values: np.ndarray) -> int:
    if values.dtype == ml_dtypes.bfloat16:  # faster by the bits: NaN and infinity set all of 0x7F80
        return int(((values.view(np.uint16) & 0x7FFF) >= 0x7F80).sum())
    return int((~np.isfinite(values)).sum())
