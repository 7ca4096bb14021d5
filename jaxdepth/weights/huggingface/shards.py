"""Which safetensors files hold a folder's weights."""

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdepth.errors import InputError, listed, one_line
from jaxdepth.files import read_json

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_BLOCK = 2**24  # bytes that are compared at once
PARAMS, CONSOLIDATED = "params.json", "consolidated"  # of Mistral's own format: how files begin


def find_shards(folder: Path) -> list[Path]:
    """The safetensors of a folder: `SINGLE_NAME`, else those that its index names, else all.

    transformers reads the single file if both are there, and leaves the index of earlier shards
    behind when it saves a model anew in larger ones.

    Raises:
        InputError: there are none, one is missing, the index names a file outside the folder, or
            the single file and the shards are both complete and differ.
    """
    index, single = folder / INDEX_NAME, folder / SINGLE_NAME
    if index.exists():
        files = [folder / name for name in named_shards(index, read_json(index))]
        # os.path.isfile is False for names that Path.is_file raises for.
        missing = [file.name for file in files if not os.path.isfile(file)]
        if single.is_file() and single not in files:
            if not missing and not _same_tensors(single, files):
                raise InputError(
                    f"{folder} holds two models: {SINGLE_NAME}, and the other one in the shards "
                    f"that {INDEX_NAME} names: move one of them elsewhere"
                )
            return [single]
        if missing:
            raise InputError(f"{folder} lacks shard {listed(missing)} that {INDEX_NAME} names")
        return files
    files = [f for f in sorted(folder.glob("*.safetensors")) if not _is_consolidated(f)]
    if single in files:
        return [single]
    if not files:
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        hint = f" ({listed(sorted(pickles))} can run code when loaded and is not read)"
        raise InputError(f"{folder} has no *.safetensors{hint if pickles else ''}")
    return files


def _same_tensors(single: Path, shards: list[Path]) -> bool:
    """Whether a file holds exactly the tensors of some shards, to the bit."""
    places = _places(single)
    places_of_shards = {name: place for file in shards for name, place in _places(file).items()}
    if set(places) != set(places_of_shards):
        return False
    return all(_same_bytes(place, places_of_shards[name]) for name, place in places.items())


def _places(file: Path) -> dict[str, tuple[dict, np.ndarray]]:
    """Each tensor's entry in the header of a file, and its bytes, which are not read yet."""
    try:
        safe_open(file, framework="np")  # checks the header
    except SafetensorError as error:
        raise InputError(
            f"{file} is truncated or not safetensors ({one_line(error)}): fetch it again"
        ) from None
    content = np.memmap(file, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    places = {}
    for name, entry in header.items():
        first, last = entry.pop("data_offsets")
        places[name] = entry, content[start + first : start + last]
    return places


def _same_bytes(one: tuple[dict, np.ndarray], other: tuple[dict, np.ndarray]) -> bool:
    (entry, content), (other_entry, other_content) = one, other
    return entry == other_entry and all(
        np.array_equal(content[i : i + _BLOCK], other_content[i : i + _BLOCK])
        for i in range(0, len(content), _BLOCK)
    )


def _is_consolidated(file: Path) -> bool:
    return file.name.startswith(CONSOLIDATED)


def named_shards(index: Path, content: object) -> list[str]:
    """The files that an index names.

    Args:
        index: its path.
        content: its parsed JSON.

    Raises:
        InputError: it names none, or one outside its folder.
    """
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{index} has no weight_map: fetch it again")
    return [_inside(name, index) for name in sorted(set(map(_hashable, shards.values())), key=str)]


def _hashable(name: object) -> str:
    """A name as it is; anything else as a text that `_inside` refuses."""
    return name if isinstance(name, str) else repr(name)[:40] + "\0"


def _inside(name: str, index: Path) -> str:
    """A shard's name, if its text stays in the index's folder; links inside may lead elsewhere."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or bool(windows.anchor)
    if not name or "\0" in name or outside or ".." in (*posix.parts, *windows.parts):
        shown = name.removesuffix("\0")
        raise InputError(f"{index} names the shard {shown!r}, which leaves its folder: refused")
    return name
