"""Conversion from a source to a checkpoint, two chunks in memory at a time.

The next chunk is read while one is written, and another thread digests the source's files. An
interrupted conversion keeps its chunks: the next one reads the whole source again, and writes only
chunks that are missing or differ.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from reprlib import repr as short  # values in a file may be long
from typing import Any

import numpy as np

from jaxdepth.errors import InputError, listed, visible
from jaxdepth.files import file_digest, read_json
from jaxdepth.model import FastTokenizer
from jaxdepth.runtime import preemption
from jaxdepth.runtime.distributed import is_distributed
from jaxdepth.runtime.lock import hold_target
from jaxdepth.runtime.log import warn
from jaxdepth.weights import checkpoint
from jaxdepth.weights.atomic_folder import atomic_folder, writing_error
from jaxdepth.weights.gguf.source import GGUFSource
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer
from jaxdepth.weights.huggingface.folder_tokenizer import load_folder_tokenizer
from jaxdepth.weights.huggingface.mistral_expression import may_be_wrong, mend_expression
from jaxdepth.weights.huggingface.source import SafetensorsSource
from jaxdepth.weights.huggingface.spare_tokens import without_spare_tokens
from jaxdepth.weights.huggingface.tokenizer_files import CONFIG, TOKENIZER, tokenizer_difference
from jaxdepth.weights.prefetch import prefetch, worker_thread
from jaxdepth.weights.sources import Source, open_source, source_tensors
from jaxdepth.weights.tensor_map import MappedTensor

_PROBE = "Please say 12 words, naïve or not: 日本 🙂.\n\n\tthere  are <s> more"
CHUNK_BYTES = 128 * 2**20  # a chunk is written once it has as much, or one tensor that is larger


def convert(
    source: str | Path,
    target: str | Path,
    with_tokenizer: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    source_name: str | None = None,
) -> bool:
    """Convert a Hugging Face folder or a GGUF file to a checkpoint for `jaxdepth.load`.

    All names, shapes and sidecar files, and the free space, are checked before anything is written.
    The target appears by one rename at the end; an interrupted conversion is resumed. Of several
    processes of one job, which have not joined yet, one converts and the others wait for it.

    Args:
        source: folder with config.json and safetensors, a .gguf file, or the id of a model on the
            Hugging Face hub.
        target: folder to make; its parents are made too.
        with_tokenizer: False leaves the tokenizer out.
        progress: called with the number of tensors done, and of all.
        source_name: the source's name in the manifest; by default its path or id.

    Returns:
        True if it was converted, False if `target` already holds this very source.

    Raises:
        InputError: the source is damaged or not supported, the target cannot be written, or another
            process is at work on it.
    """
    target = Path(target)
    _check_parents(target)
    if is_distributed():
        raise InputError("convert before jax.distributed is initialised: one process converts")
    request = source, target, with_tokenizer, progress, source_name
    if (target / checkpoint.MANIFEST).is_file():
        return convert_locked(*request)  # which only reads, also where no lock can be made
    with hold_target(target) as is_mine:
        if is_mine:
            return convert_locked(*request)
    if not (target / checkpoint.MANIFEST).is_file():
        raise InputError(
            f"{target} was not converted by the process of this job that began it: see what that "
            "says, and run the same command again"
        )
    return False


def convert_locked(
    source: str | Path,
    target: Path,
    with_tokenizer: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    source_name: str | None = None,
    export: Mapping | None = None,
) -> bool:
    """`convert`, where the caller holds the lock of the target.

    Args:
        source: as for `convert`.
        target: as for `convert`.
        with_tokenizer: as for `convert`.
        progress: as for `convert`.
        source_name: as for `convert`.
        export: what the source was exported from, for the manifest.

    Raises:
        InputError: as `convert`.
    """
    opened = open_source(source)
    tensors = source_tensors(opened)
    tokenizer = _read_tokenizer(opened) if with_tokenizer else None
    _warn_of_code(opened)
    origin: dict[str, Any] = {"config": opened.raw_config, "tokenizer": tokenizer is not None}
    if export is not None:
        origin["export"] = dict(export)
    if opened.quantisation is not None:
        origin["quantisation"] = dict(opened.quantisation)
    if target.exists():
        _check_same(target, {"files": {f.name: _file_record(f) for f in opened.files}, **origin})
        _check_same_sidecars(target, opened, tokenizer)
        return False

    chunks = list(_chunks(tensors, opened))
    with atomic_folder(target, resume=True) as folder:
        checkpoint.remove_leftovers(folder, len(chunks))
        _check_space(folder, sum(map(opened.nbytes, tensors)))
        _write_sidecars(opened, tokenizer, folder)
        with worker_thread() as worker:
            files = {f.name: worker.submit(_file_record, f) for f in opened.files}
            records: dict[str, dict] = {}
            for number, (arrays, chunk_records) in enumerate(
                prefetch(partial(_read_chunk, opened), chunks)
            ):
                if checkpoint.chunk_records(folder, number) != chunk_records:
                    _write_chunk(folder, number, arrays, chunk_records)
                records |= {k: {**record, "chunk": number} for k, record in chunk_records.items()}
                progress(len(records), len(tensors))
                preemption.raise_if_stopped_here()  # the others of the job may be waiting
            file_records = {name: record.result() for name, record in files.items()}
        checkpoint.write_manifest(
            folder,
            {
                "jaxdepth": version("jaxdepth"),
                "fingerprint": checkpoint.fingerprint(opened.config, records),
                "source": {"path": source_name or opened.name, "files": file_records, **origin},
                "leaves": records,
            },
        )
    return True


def _chunks(tensors: Sequence[MappedTensor], source: Source) -> Iterator[list[MappedTensor]]:
    chunk, size = [], 0
    for tensor in tensors:
        chunk.append(tensor)
        size += source.nbytes(tensor)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _read_chunk(
    source: Source, chunk: Sequence[MappedTensor]
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """The arrays of a chunk and their records, by key."""
    arrays = {tensor.key: source.read(tensor) for tensor in chunk}
    records = {
        key: {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": checkpoint.digest(array),
        }
        for key, array in arrays.items()
    }
    return arrays, records


def _write_chunk(
    folder: Path, number: int, arrays: Mapping[str, np.ndarray], records: Mapping[str, Mapping]
) -> None:
    _check_writable(folder / ".room", sum(array.nbytes for array in arrays.values()))
    try:
        checkpoint.write_chunk(folder, number, arrays, records)
    except Exception as error:  # TensorStore reports a full disk as a ValueError
        raise writing_error(error) from None


def _check_space(folder: Path, needed: int) -> None:
    """Raise OSError if the disk has too little space for all weights."""
    kept = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    free = shutil.disk_usage(folder).free
    if needed - kept > free:
        raise OSError(f"needs {(needed - kept) / 1e9:.3g} GB, there are {free / 1e9:.3g} GB")


def _check_writable(scratch: Path, size: int) -> None:
    """Raise OSError if `size` bytes cannot be written.

    When a write fails halfway, TensorStore fills the terminal with the tracebacks of its threads.
    """
    with scratch.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    scratch.unlink()


def _write_sidecars(source: Source, tokenizer, folder: Path) -> None:
    text = json.dumps(source.raw_config, indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    if tokenizer is None:
        return
    if isinstance(source, SafetensorsSource):
        for name in checkpoint.sidecars(source.folder):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.folder / name, folder / name)
        copy = checkpoint.load_tokenizer(folder) if may_be_wrong(source.raw_config) else None
        if copy is not None and mend_expression(copy, source.raw_config):
            copy.backend_tokenizer.save(str(folder / TOKENIZER))
    if not (folder / TOKENIZER).is_file():
        tokenizer.save_pretrained(folder)
    what = tokenizer_difference(tokenizer, checkpoint.load_tokenizer(folder))
    if what is not None:
        raise InputError(
            f"{source.name}: a copy of its tokenizer differs from it in {what}: save it anew with "
            "transformers (save_pretrained), or pass --no-tokenizer"
        )


def _read_tokenizer(source: Source):
    """The source's tokenizer, or None; all files that will be copied with it are checked."""
    if isinstance(source, GGUFSource):
        tokenizer = gguf_tokenizer(source.fields)
    else:
        tokenizer = _read_folder_tokenizer(source)
    if tokenizer is not None:
        _check_encodes(tokenizer, source.name)
        without_spare_tokens(tokenizer, source.config.vocab_size, source.name)  # whether it can be
    return tokenizer


def _check_encodes(tokenizer, name: str) -> None:
    """Encode and decode a text: some damage shows nowhere else."""
    try:
        tokenizer.decode(tokenizer.encode(_PROBE))
    except BaseException as error:  # a panic of the library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"{name}: its tokenizer cannot encode a text ({type(error).__name__}: "
            f"{str(error)[:120]}): fetch it again, or pass --no-tokenizer"
        ) from None


def _read_folder_tokenizer(source: SafetensorsSource):
    folder = source.folder
    for name in checkpoint.sidecars(folder):
        if name.endswith(".json"):
            content = read_json(folder / name)
            if not isinstance(content, dict):
                kind = type(content).__name__
                raise InputError(f"{folder / name} holds a {kind}, expected an object")
    tokenizer = load_folder_tokenizer(folder)
    checkpoint.end_tokens(folder, tokenizer)
    if mend_expression(tokenizer, source.raw_config):
        print(
            f"jaxdepth: note: {source.name}: its {TOKENIZER} splits text by a wrong expression, as "
            "early uploads of Mistral's do; the checkpoint gets Mistral's own",
            file=sys.stderr,
        )
    return tokenizer


def _warn_of_code(source: Source) -> None:
    """Name the authors' own code, which transformers runs only if it is told to trust it."""
    code = source.raw_config.get("auto_map")
    if code:
        warn(
            f"{source.name}: config.json names code of its own (auto_map: {visible(short(code))}), "
            "which is never run: the weights are read as those of "
            f"{source.raw_config['model_type']}"
        )


def _check_parents(target: Path) -> None:
    for parent in target.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError(f"cannot make {target}: {parent} is a file, not a folder")
            return


def _check_same(target: Path, origin: Mapping) -> None:
    """Check that an existing target is what this conversion would make."""
    if not (target / checkpoint.MANIFEST).is_file():
        raise InputError(f"{target} exists and is not a converted checkpoint: name another target")
    other = checkpoint.read_manifest(target)["source"]
    if {k: v for k, v in other.items() if k != "path"} != origin:
        raise InputError(
            f"{target} was converted from another source ({other['path']}): "
            "name another target or remove it"
        )


def _check_same_sidecars(target: Path, source: Source, tokenizer: FastTokenizer | None) -> None:
    """Check that the files beside the weights of an existing target are still the source's."""
    if tokenizer is None or isinstance(source, GGUFSource):
        return
    made: tuple[str, ...] = ()  # files that were written anew
    if not (source.folder / TOKENIZER).is_file():
        made = (TOKENIZER, CONFIG, "chat_template.jinja")
    elif may_be_wrong(source.raw_config) and mend_expression(
        checkpoint.load_tokenizer(source.folder), source.raw_config
    ):
        made = (TOKENIZER,)
    if made:
        what = tokenizer_difference(tokenizer, checkpoint.load_tokenizer(target))
        if what is not None:
            raise InputError(
                f"{target} was converted when the tokenizer of {source.name} differed in {what}: "
                "name another target or remove it"
            )
    names = [name for name in checkpoint.sidecars(source.folder) if name not in made]
    digests = {name: file_digest(source.folder / name) for name in names}
    copied = checkpoint.read_manifest(target)["files"]
    copied = {name: copied[name] for name in checkpoint.sidecars(target) if name not in made}
    if digests != copied:
        changed = [n for n in {**digests, **copied} if digests.get(n) != copied.get(n)]
        raise InputError(
            f"{target} was converted when {listed(changed)} of {source.name} had other content: "
            "name another target or remove it"
        )


def _file_record(file: Path) -> dict:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}
