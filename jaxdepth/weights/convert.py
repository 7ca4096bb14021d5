"""Conversion: source files in, checkpoint out, one chunk in memory at a time."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from jaxdepth.config import read_json
from jaxdepth.errors import InputError
from jaxdepth.weights import checkpoint
from jaxdepth.weights.gguf_tokenizer import gguf_tokenizer
from jaxdepth.weights.plan import check_plan, plan
from jaxdepth.weights.sources import GGUFSource, SafetensorsSource, open_source
from jaxdepth.weights.whole import whole_folder

# Written together: as much as this, or one tensor if that is larger.
CHUNK_BYTES = 128 * 2**20
_SIDECARS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def convert(
    source: str | Path,
    target: str | Path,
    with_tokenizer: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    called: str | None = None,
) -> bool:
    """Converts a Hugging Face folder or a GGUF file to a checkpoint for `jaxdepth.load`.

    Everything that can be wrong with names, shapes and sidecar files is found before anything is
    written. The target appears by one rename at the end.

    Args:
        source: folder with config.json and safetensors, or a .gguf file.
        target: folder to make; its parents are made too.
        with_tokenizer: False leaves the tokenizer out.
        progress: called with pieces done and pieces in all.
        called: what the checkpoint says that it was made from; by default where the source is.

    Returns:
        True if it was converted, False if `target` already holds this very source.

    Raises:
        InputError: the source is not whole or not supported, or the target cannot be written.
    """
    source, target = Path(source), Path(target)
    _check_target_place(target)
    opened = open_source(source)
    pieces = plan(opened.config, opened.names)
    check_plan(pieces, opened.shapes, opened.where)
    tokenizer = _read_tokenizer(opened, with_tokenizer)
    files = {f.name: {"bytes": f.stat().st_size, "sha256": _file_digest(f)} for f in opened.files}
    called = called or opened.where
    origin = {"files": files, "config": opened.raw_config, "tokenizer": tokenizer is not None}
    if target.exists():
        _check_same(target, origin)
        return False

    with whole_folder(target) as partial:
        _write(opened, pieces, tokenizer, {"path": called, **origin}, partial, progress)
    return True


def _write(opened, pieces, tokenizer, origin, folder: Path, progress) -> None:
    leaves, chunk, size = {}, {}, 0
    for number, piece in enumerate(pieces, start=1):
        array = opened.read(piece)
        leaves[piece.key] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": checkpoint.digest(array),
        }
        chunk[piece.key] = array
        size += array.nbytes
        del array
        if size >= CHUNK_BYTES or number == len(pieces):
            _write_chunk(folder, chunk)
            chunk, size = {}, 0
        progress(number, len(pieces))
    _write_sidecars(opened, tokenizer, folder)
    checkpoint.finish(
        folder,
        {
            "format": checkpoint.FORMAT,
            "jaxdepth": version("jaxdepth"),
            "fingerprint": checkpoint.fingerprint(opened.config, leaves),
            "source": origin,
            "leaves": leaves,
        },
    )


def _write_chunk(folder: Path, chunk) -> None:
    _reserve(folder / ".room", sum(array.nbytes for array in chunk.values()))
    try:
        checkpoint.write_arrays(folder, chunk)
    except Exception as error:  # TensorStore reports a full disk as a ValueError
        raise OSError(" ".join(str(error).split())[:160]) from None


def _reserve(scratch: Path, size: int) -> None:
    """Finds out whether `size` bytes can be written, and raises OSError if not.

    Asked first because TensorStore, refused in the middle of a write, fills the terminal with the
    tracebacks of its threads.
    """
    with scratch.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    scratch.unlink()


def _write_sidecars(opened, tokenizer, folder: Path) -> None:
    text = json.dumps(opened.raw_config, indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    if tokenizer is None:
        return
    if isinstance(opened, GGUFSource):
        tokenizer.save_pretrained(folder)
        return
    for name in _SIDECARS:
        if (opened.folder / name).is_file():
            shutil.copyfile(opened.folder / name, folder / name)


def _read_tokenizer(opened: SafetensorsSource | GGUFSource, wanted: bool):
    if not wanted:
        return None
    if isinstance(opened, GGUFSource):
        tokenizer = gguf_tokenizer(opened.fields)
    else:
        folder = opened.folder
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            raise InputError(
                f"{folder} has tokenizer.model but no tokenizer.json, which is what is read: "
                "add it, or pass --no-tokenizer"
            )
        for name in _SIDECARS:
            if name.endswith(".json") and (folder / name).is_file():
                read_json(folder / name)
        tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is not None and len(tokenizer) > opened.config.vocab_size:
        raise InputError(
            f"{opened.where}: the tokenizer has {len(tokenizer)} tokens, the model only "
            f"{opened.config.vocab_size}: they do not belong together"
        )
    return tokenizer


def _check_target_place(target: Path) -> None:
    for parent in target.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError(f"cannot make {target}: {parent} is a file, not a folder")
            return


def _check_same(target: Path, origin) -> None:
    """A target that exists is left alone; it must be what this conversion would make."""
    if not (target / checkpoint.MANIFEST).is_file():
        raise InputError(f"{target} exists and is not a converted checkpoint: name another target")
    said = checkpoint.read_manifest(target)["source"]
    if {k: v for k, v in said.items() if k != "path"} != origin:
        raise InputError(
            f"{target} was converted from another source ({said['path']}): "
            "name another target or remove it"
        )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
