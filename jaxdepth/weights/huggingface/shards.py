"""Which safetensors files hold a folder's weights."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxdepth.errors import InputError, listed
from jaxdepth.files import read_json

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PARAMS, CONSOLIDATED = "params.json", "consolidated"  # of Mistral's own format: how files begin


def find_shards(folder: Path) -> list[Path]:
    """The safetensors of a folder: those that its index names, else `SINGLE_NAME`, else all.

    Raises:
        InputError: there are none, one is missing, or the index names a file outside the folder.
    """
    index = folder / INDEX_NAME
    if index.exists():
        files = [folder / name for name in named_shards(index, read_json(index))]
        # os.path.isfile is False for names that Path.is_file raises for.
        missing = [file.name for file in files if not os.path.isfile(file)]
        if missing:
            raise InputError(f"{folder} lacks shard {listed(missing)} that {INDEX_NAME} names")
        return files
    files = [f for f in sorted(folder.glob("*.safetensors")) if not _is_consolidated(f)]
    if (folder / SINGLE_NAME) in files:
        return [folder / SINGLE_NAME]
    if not files:
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        hint = f" ({listed(sorted(pickles))} can run code when loaded and is not read)"
        raise InputError(f"{folder} has no *.safetensors{hint if pickles else ''}")
    return files


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
