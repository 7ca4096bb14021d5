"""Reading files that a stranger may have written, and small files of arrays with a header.

A file of arrays is safetensors, with one header entry that says in JSON what the arrays are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdepth.errors import InputError

_HEADER, _SEAL = "jaxdepth", "sha256"  # the header entry of our own safetensors files
_MOST_JSON = 64 * 2**20  # bytes; the largest vocabularies take half of that


def read_json(path: Path, mend: str = "fetch it again") -> Any:
    """A JSON file's content.

    Raises:
        InputError: the file is missing, too large, or broken; `mend` says what to do then.
    """
    if not path.is_file():
        wrong = "is not a file" if path.exists() else "is missing"
        raise InputError(f"{path} {wrong}: is this the folder of a model?")
    size = path.stat().st_size
    if size > _MOST_JSON:  # parsed, it would take many times as much memory
        raise InputError(f"{path} has {size:,} bytes, expected at most {_MOST_JSON:,}: {mend}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {mend}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], said: Mapping) -> None:
    """Writes them, sealed with a digest of all; equal content makes equal files."""
    from safetensors.numpy import save

    said = json.loads(json.dumps(said))
    sealed = json.dumps(said | {_SEAL: _digest(arrays, said)})
    # One entry: safetensors writes several in any order.
    path.write_bytes(save(dict(arrays), metadata={_HEADER: sealed}))


def open_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """The arrays, and what the header entry says if there is one.

    Raises:
        InputError: the file is no safetensors file, is cut short, or is not as it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = (file.metadata() or {}).get(_HEADER)
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: no dtype of numpy
        raise InputError(f"{path} cannot be read ({error}): it is damaged or incomplete") from None
    if header is None:
        return arrays, None
    try:
        said = json.loads(header)
        seal = said.pop(_SEAL, None)  # files of earlier versions have none
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise damaged_header(path, error) from None
    if seal not in (None, _digest(arrays, said)):
        raise InputError(f"{path} is damaged: it differs from the digest in its header")
    return arrays, said


def read_arrays(path: Path, what: str, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a file that `save_arrays` wrote in the format `kind`, and what its header says.

    Args:
        path: the file; it exists.
        what: what it should be, for messages: a directions file, an exit classifier.
        kind: the format that its header must name.

    Raises:
        InputError: as `open_arrays`; it is something else, or of another format.
    """
    arrays, said = open_arrays(path)
    if said is None:
        raise InputError(f"{path} is not {what} of jaxdepth (of the format {kind})")
    if said.get("format") != kind:
        raise InputError(f"{path} has the format {said.get('format')!r}, expected {kind}")
    return arrays, said


def _digest(arrays: Mapping[str, np.ndarray], said: Mapping) -> str:
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def damaged_header(path: Path, error: Exception) -> InputError:
    """The error of a header that lacks something, or is not what it should be."""
    return InputError(f"{path}: its header is damaged ({error})")
