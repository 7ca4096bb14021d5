"""Directions in the residual stream: difference of means, their file, and look-up by name."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from jaxdepth.errors import InputError, nearest
from jaxdepth.files import read_arrays, save_arrays

FORMAT = "jaxdepth-directions-1"
EXAMPLE = "content.instruction@15"


class Header(TypedDict):
    """What the metadata of a directions file hold."""

    base: str
    adapter: str | None
    made: dict[str, Any]


@dataclass(frozen=True)
class Directions:
    """One direction per name and layer; layer 0 is the embedding, J = L + 1."""

    arrays: Mapping[str, Float[np.ndarray, "J D"]]  # by target.position
    base: str  # fingerprint of the checkpoint whose activations they are from
    adapter: str | None  # digest of its adapter, if it had one
    made: Mapping  # provenance: prompts, their number, settings, versions

    def at(self, name: str, layer: int) -> Float[np.ndarray, " D"]:
        """The direction of that name at that layer, 0..L.

        Raises:
            InputError: there is none.
        """
        if name not in self.arrays:
            raise InputError(f"no direction {name!r}{nearest(name, self.arrays)}")
        layers_JD = self.arrays[name]
        if not 0 <= layer < len(layers_JD):
            raise InputError(
                f"layer {layer} is out of range: there are directions of layers 0 to "
                f"{len(layers_JD) - 1}"
            )
        return layers_JD[layer]


def mean_difference(
    x_GND: Float[np.ndarray, "G N D"], y_N: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, "G D"]:
    """Mean of the examples that are `y` minus the mean of those that are not, in each of G groups.

    Sums are float64. Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.3.

    Raises:
        InputError: one of the classes has no examples.
    """
    y_N = np.asarray(y_N, bool)
    if y_N.all() or not y_N.any():
        raise InputError(f"{len(y_N)} examples of one class: a difference needs two")
    means = (x_GND[:, rows_N].mean(axis=1, dtype=np.float64) for rows_N in (y_N, ~y_N))
    return np.subtract(*means)


def parse_direction(text: str) -> tuple[str, int]:
    """Name and layer of a direction on the command line, such as `content.instruction@15`.

    Raises:
        InputError: the text has another form.
    """
    name, _, layer = text.rpartition("@")
    if not name or not layer.isdecimal():
        raise InputError(f"direction {text!r}: expected NAME@LAYER, such as {EXAMPLE}")
    return name, int(layer)


def save_directions(path: Path, directions: Directions) -> None:
    """Write a directions file (safetensors); its arrays are float32."""
    metadata = {
        "format": FORMAT,
        "base": directions.base,
        "adapter": directions.adapter,
        "made": directions.made,
    }
    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in directions.arrays.items()}
    save_arrays(path, arrays, metadata)


def read_directions(path: Path) -> Directions:
    """Read a directions file.

    Raises:
        InputError: there is no file, it is damaged, or it has other content.
    """
    if not path.is_file():
        raise InputError(f"no directions file {path}: `jaxdepth probe` makes one")
    arrays, header = read_arrays(path, "a directions file", FORMAT, Header)
    directions = Directions(arrays, header["base"], header["adapter"], header["made"])
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise InputError(f"{path}: its arrays are not all of one shape (J, D): it is damaged")
    return directions


def find_direction(path: Path, requested: str, base: str) -> Float[np.ndarray, " D"]:
    """The direction NAME@LAYER of a file, checked to be of a checkpoint.

    The adapter may differ from that of the directions: they may be applied to tuned models too.

    Args:
        path: a file from `save_directions`.
        requested: NAME@LAYER, see `parse_direction`.
        base: the fingerprint of the checkpoint.

    Raises:
        InputError: as `read_directions`; the file is of another checkpoint; it has no such name or
            layer.
    """
    name, layer = parse_direction(requested)
    directions = read_directions(path)
    if directions.base != base:
        raise InputError(
            f"{path} was made for the base {directions.base[:12]}, this checkpoint is {base[:12]}: "
            "name that base, or another file"
        )
    try:
        return directions.at(name, layer)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def directions_digest(path: Path) -> str:
    """SHA-256 of a directions file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
