"""Read files that strangers may have written; read and write small files of arrays.

A file of arrays is safetensors with one metadata entry: JSON that describes the arrays and holds a
digest of them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxdepth.errors import InputError
from jaxdepth.records import read_record_as

R = TypeVar("R")

_METADATA_KEY, _DIGEST_KEY = "jaxdepth", "sha256"
_FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
_BLOCK = 2**17  # values; blocks that stay in the CPU's cache are several times faster
_MAX_TEXT_BYTES = 2**30
_MAX_JSON_BYTES = 64 * 2**20  # the largest tokenizers have half of that


def read_json(path: Path, remedy: str = "fetch it again") -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        remedy: what the user should do if it is damaged.

    Raises:
        InputError: it is missing, too large or not JSON.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "is missing"
        raise InputError(f"{path} {problem}: is this the folder of a model?")
    size = path.stat().st_size
    if size > _MAX_JSON_BYTES:  # parsed, it would take many times as much memory
        raise InputError(
            f"{path} has {size:,} bytes, expected at most {_MAX_JSON_BYTES:,}: {remedy}"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {remedy}") from None


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file that a person may have written.

    Raises:
        InputError: it is too large, or not UTF-8.
    """
    size = path.stat().st_size
    if size > _MAX_TEXT_BYTES:
        raise InputError(f"{path} has {size:,} bytes, expected at most {_MAX_TEXT_BYTES:,}")
    try:
        return path.read_text(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping) -> None:
    """Write arrays and their metadata, with a digest of both; equal content makes equal files."""
    metadata = json.loads(json.dumps(metadata))
    header = json.dumps({**metadata, _DIGEST_KEY: _digest(arrays, metadata)})
    # One entry only: safetensors writes several in any order.
    path.write_bytes(save(dict(arrays), metadata={_METADATA_KEY: header}))


def open_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """The arrays of a safetensors file, and the metadata that `save_arrays` wrote or None.

    Raises:
        InputError: it is not safetensors, is truncated, or differs from its digest.
    """
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = (file.metadata() or {}).get(_METADATA_KEY)
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: numpy lacks the dtype
        raise InputError(f"{path} cannot be read ({error}): it is damaged or incomplete") from None
    if header is None:
        return arrays, None
    try:
        metadata = json.loads(header)
        digest = metadata.pop(_DIGEST_KEY, None)  # the adapters in this package have none
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise damaged_header(path, error) from None
    if digest not in (None, _digest(arrays, metadata)):
        raise InputError(f"{path} is damaged: it differs from the digest in its header")
    return arrays, metadata


def read_arrays(
    path: Path, description: str, file_format: str, record: type[R]
) -> tuple[dict[str, np.ndarray], R]:
    """The arrays and the metadata of a file that `save_arrays` wrote.

    Args:
        path: the file; it exists.
        description: what it should be, for messages: "a directions file".
        file_format: the value that its metadata must have for "format".
        record: the TypedDict that its metadata are.

    Raises:
        InputError: as `open_arrays`; it is something else or of another format; metadata lack
            something or have other types; or a number is NaN or infinite.
    """
    arrays, metadata = open_arrays(path)
    if not isinstance(metadata, dict):
        raise InputError(f"{path} is not {description} of jaxdepth (of the format {file_format})")
    if metadata.get("format") != file_format:
        raise InputError(
            f"{path} has the format {str(metadata.get('format'))[:60]!r}, expected {file_format}"
        )
    for name, array in arrays.items():
        if array.dtype not in _FLOATS:
            raise InputError(f"{path}: {name[:60]} is of {array.dtype}, expected floating point")
        check_finite(array, name[:60], path)
    return arrays, read_record_as(record, metadata, str(path), "its header is damaged")


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


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def damaged_header(path: Path, error: Exception) -> InputError:
    """The error for metadata with missing or malformed entries."""
    return InputError(f"{path}: its header is damaged ({error})")
