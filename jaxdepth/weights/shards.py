"""Which safetensors files a folder's weights are in."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxdepth.errors import InputError, listed
from jaxdepth.files import read_json

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


def find_shards(folder: Path) -> list[Path]:
    """The safetensors of a folder: those that the index names, else the only file, else all.

    Raises:
        InputError: there are none, one is missing, or the index names what is not in the folder.
    """
    index = folder / INDEX_NAME
    if index.exists():
        files = [folder / name for name in named_shards(index, read_json(index))]
        missing = [f.name for f in files if not os.path.isfile(f)]  # False for what no name can be
        if missing:
            raise InputError(f"{folder} lacks shard {listed(missing)} that {INDEX_NAME} names")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if (folder / SINGLE_NAME) in files:
        return [folder / SINGLE_NAME]
    if not files:
        other = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        hint = f" ({listed(sorted(other))} can run code when loaded and is not read)"
        raise InputError(f"{folder} has no *.safetensors{hint if other else ''}")
    return files


def named_shards(index: Path, content) -> list[str]:
    """The files that an index names, all inside its folder.

    Raises:
        InputError: it names none, or one elsewhere.
    """
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{index} has no weight_map: fetch it again")
    return [_inside(name, index) for name in sorted(set(map(_hashable, shards.values())), key=str)]


def _hashable(name):
    return name if isinstance(name, str) else repr(name)[:40] + "\0"


def _inside(name: str, index: Path) -> str:
    """A shard's name, if it stays in the index's folder; judged by its letters, so links work."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or bool(windows.anchor)
    if not name or "\0" in name or outside or ".." in (*posix.parts, *windows.parts):
        shown = name.removesuffix("\0")
        raise InputError(f"{index} names the shard {shown!r}, which leaves its folder: refused")
    return name
