"""Arrays in one safetensors file, and one header entry that says in JSON what they are."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdepth.errors import InputError

_HEADER = "jaxdepth"


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], said: Mapping) -> None:
    """Writes them; equal content makes equal files."""
    from safetensors.numpy import save

    # One entry: safetensors writes several in any order.
    path.write_bytes(save(dict(arrays), metadata={_HEADER: json.dumps(said)}))


def open_arrays(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """The arrays, and the header entry if there is one.

    Raises:
        InputError: the file is no safetensors file, or is cut short.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, (file.metadata() or {}).get(_HEADER)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): it is damaged or incomplete") from None


def read_arrays(path: Path, what: str, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a file that `save_arrays` wrote in the format `kind`, and what its header says.

    Args:
        path: the file; it exists.
        what: what it should be, for messages: a directions file, an exit classifier.
        kind: the format that its header must name.

    Raises:
        InputError: as `open_arrays`; it is something else, of another format, or its header is
            damaged.
    """
    arrays, header = open_arrays(path)
    if header is None:
        raise InputError(f"{path} is not {what} of jaxdepth (of the format {kind})")
    try:
        said = json.loads(header)
        if said["format"] != kind:
            raise InputError(f"{path} has the format {said['format']!r}, expected {kind}")
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise damaged_header(path, error) from None
    return arrays, said


def damaged_header(path: Path, error: Exception) -> InputError:
    """The error of a header that lacks something, or is not what it should be."""
    return InputError(f"{path}: its header is damaged ({error})")
