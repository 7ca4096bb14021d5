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
