"""Conversion: source files in, checkpoint out, two chunks in memory at a time.

While one chunk is written the next is read, and the source's files are digested beside that. What a
conversion that was cut short has written is kept: the next one reads the source again, and writes
only what is not there yet.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest, read_json
from jaxdepth.runtime import preemption
from jaxdepth.weights import checkpoint
from jaxdepth.weights.atomic_folder import whole_folder
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer
from jaxdepth.weights.prefetch import ahead, one_thread
from jaxdepth.weights.sources import GGUFSource, SafetensorsSource, open_source
from jaxdepth.weights.tensor_map import Piece, check_depth, check_plan, plan

# Written together: as much as this, or one tensor if that is larger.
CHUNK_BYTES = 128 * 2**20


def convert(
    source: str | Path,
    target: str | Path,
    with_tokenizer: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    called: str | None = None,
) -> bool:
    """Converts a Hugging Face folder or a GGUF file to a checkpoint for `jaxdepth.load`.

    Everything that can be wrong with names, shapes, sidecar files and space is found before
    anything is written. The target appears by one rename at the end; cut short, the conversion goes
    on where it was.

    Args:
        source: folder with config.json and safetensors, a .gguf file, or the id of a model on the
            Hugging Face hub.
        target: folder to make; its parents are made too.
        with_tokenizer: False leaves the tokenizer out.
        progress: called with pieces done and pieces in all.
        called: what the checkpoint says that it was made from; by default where the source is.

    Returns:
        True if it was converted, False if `target` already holds this very source.

    Raises:
        InputError: the source is not whole or not supported, or the target cannot be written.
    """
    target = Path(target)
    _check_target_place(target)
    opened = open_source(source)
    pieces = planned(opened)
    tokenizer = _read_tokenizer(opened, with_tokenizer)
    origin = {"config": opened.raw_config, "tokenizer": tokenizer is not None}
    if target.exists():
        _check_same(target, {"files": {f.name: _file_said(f) for f in opened.files}, **origin})
        return False

    chunks = list(_chunks(pieces, opened))
    with whole_folder(target, resume=True) as folder:
        checkpoint.clear(folder, len(chunks))
        _check_space(folder, sum(map(opened.nbytes, pieces)))
        with one_thread() as digesting:
            files = {f.name: digesting.submit(_file_said, f) for f in opened.files}
            leaves = {}
            read = ahead(partial(_read_chunk, opened), chunks)
            for number, (arrays, said) in enumerate(read):
                if checkpoint.chunk_said(folder, number) != said:
                    _write_chunk(folder, number, arrays, said)
                leaves |= {key: {**of, "chunk": number} for key, of in said.items()}
                progress(len(leaves), len(pieces))
                preemption.raise_if_stop_requested()
            _write_sidecars(opened, tokenizer, folder)
            files = {name: said.result() for name, said in files.items()}
            origin = {"path": called or opened.where, "files": files, **origin}
        checkpoint.finish(
            folder,
            {
                "jaxdepth": version("jaxdepth"),
                "fingerprint": checkpoint.fingerprint(opened.config, leaves),
                "source": origin,
                "leaves": leaves,
            },
        )
    return True


def planned(opened: SafetensorsSource | GGUFSource) -> list[Piece]:
    """What is to be read from a source, held against what it has.

    Raises:
        InputError: tensors are missing, extra or wrongly shaped.
    """
    check_depth(opened.config, opened.shapes, opened.where)
    pieces = plan(opened.config, opened.names)
    check_plan(pieces, opened.shapes, opened.where)
    return pieces


def _chunks(pieces: Sequence[Piece], opened) -> Iterator[list[Piece]]:
    chunk, size = [], 0
    for piece in pieces:
        chunk.append(piece)
        size += opened.nbytes(piece)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _read_chunk(opened, chunk: Sequence[Piece]) -> tuple[dict[str, np.ndarray], dict]:
    arrays = {piece.key: opened.read(piece) for piece in chunk}
    said = {
        key: {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": checkpoint.digest(array),
        }
        for key, array in arrays.items()
    }
    return arrays, said


def _write_chunk(folder: Path, number: int, arrays, said) -> None:
    _reserve(folder / ".room", sum(array.nbytes for array in arrays.values()))
    try:
        checkpoint.write_chunk(folder, number, arrays, said)
    except Exception as error:  # TensorStore reports a full disk as a ValueError
        raise OSError(" ".join(str(error).split())[:160]) from None


def _check_space(folder: Path, needed: int) -> None:
    """Finds out before anything is written whether there is room for the weights."""
    kept = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    free = shutil.disk_usage(folder).free
    if needed - kept > free:
        raise OSError(f"needs {(needed - kept) / 1e9:.3g} GB, there are {free / 1e9:.3g} GB")


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
    for name in checkpoint.SIDECARS:
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
        for name in checkpoint.SIDECARS:
            if name.endswith(".json") and (folder / name).exists():
                held = read_json(folder / name)
                if not isinstance(held, dict):
                    kind = type(held).__name__
                    raise InputError(f"{folder / name} holds a {kind}, expected an object")
        tokenizer = checkpoint.load_tokenizer(folder)
        checkpoint.end_tokens(folder, tokenizer)
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


def _file_said(file: Path) -> dict:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}
