"""A checkpoint on disk.

A checkpoint is a folder that appears complete or not at all:
    jaxdepth.json   the manifest: the source and its digests, and a digest of every array and file
    config.json     as in the source (for GGUF: rebuilt from its metadata)
    tokenizer.json, tokenizer_config.json, added_tokens.json, chat_template.jinja ...
                    if the source had them; all files that transformers reads for a tokenizer
    weights/00000/ ...   Orbax: chunks of several arrays, one array a layer and tensor, so that
                         nothing large is ever doubled; matrices as in the source, outputs first
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest, read_json
from jaxdepth.model import FastTokenizer
from jaxdepth.model.config import ModelConfig
from jaxdepth.records import read_record_as
from jaxdepth.weights.huggingface.tokenizer_files import (
    OTHER_FORMS,
    PROCESSOR_TEMPLATE,
    TOKENIZER_FILES,
    tokenizer_files,
)
from jaxdepth.weights.orbax_errors import silence_orbax, translate_orbax_errors

MANIFEST = "jaxdepth.json"
FORMAT = 3
SIDECARS = (*TOKENIZER_FILES, *OTHER_FORMS, "generation_config.json")
_WEIGHTS = "weights"
_RECORDS = "leaves"  # key of a chunk's records in Orbax's metadata
_MAX_TOKEN_ID = 10_000_000
_MAX_SIZE = 2**53  # of an array


class ArrayRecord(TypedDict):
    """One array of a checkpoint."""

    shape: list[int]
    dtype: Literal["float32", "float16", "bfloat16"]
    sha256: str
    chunk: int


class SourceFile(TypedDict):
    """One file that a checkpoint was converted from."""

    bytes: int
    sha256: str


class SourceRecord(TypedDict):
    """What a checkpoint was converted from."""

    path: str
    files: dict[str, SourceFile]
    config: dict[str, Any]
    tokenizer: bool
    quantisation: NotRequired[dict[str, Any]]
    export: NotRequired[dict[str, Any]]  # see `weights.export`


class Manifest(TypedDict):
    """What jaxdepth.json holds."""

    format: int
    jaxdepth: str
    fingerprint: str
    source: SourceRecord
    leaves: dict[str, ArrayRecord]
    files: dict[str, str]  # digests


def digest(array: np.ndarray | jax.Array) -> str:
    """SHA-256 of an array's bytes, in C order and its own dtype."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def write_chunk(
    folder: Path, number: int, arrays: Mapping[str, np.ndarray], records: Mapping[str, Mapping]
) -> None:
    """Write one chunk of an unfinished checkpoint, atomically.

    Args:
        folder: the unfinished checkpoint.
        number: of the chunk; an existing one is replaced.
        arrays: by key.
        records: shape, dtype and digest of each array, which `chunk_records` returns.
    """
    from orbax.checkpoint import v1 as ocp  # heavy

    path = _chunk_path(folder, number)
    shutil.rmtree(path, ignore_errors=True)
    context = ocp.Context()
    # Plain files: weights hardly compress, and OCDBT copies them once more in memory.
    context.array.saving.use_compression = context.array.saving.use_ocdbt = False
    with context, silence_orbax():
        ocp.save(path, dict(arrays), custom_metadata={_RECORDS: records})


def chunk_records(folder: Path, number: int) -> dict[str, dict] | None:
    """The records of a chunk that was written; None if it is missing or cannot be read."""
    from orbax.checkpoint import v1 as ocp  # heavy

    path = _chunk_path(folder, number)
    if not path.is_dir():
        return None
    try:
        with silence_orbax():
            return ocp.metadata(path).custom_metadata.get(_RECORDS)
    except Exception:  # of many types; such a chunk is written again
        return None


def read_chunk(
    folder: Path, number: int, shardings: Mapping[str, NamedSharding] | None = None
) -> dict[str, np.ndarray | jax.Array]:
    """The arrays of a chunk by key.

    Args:
        folder: the checkpoint.
        number: of the chunk.
        shardings: by key; None reads numpy arrays.

    Raises:
        InputError: the chunk is missing or damaged.
    """
    from orbax.checkpoint import v1 as ocp  # heavy

    path = _chunk_path(folder, number)
    with translate_orbax_errors(path, "convert again"):
        abstract = dict(ocp.metadata(path).metadata)
        if shardings is not None:
            abstract = {
                key: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=shardings[key])
                for key, array in abstract.items()
            }
        return dict(ocp.load(path, abstract))


def _chunk_path(folder: Path, number: int) -> Path:
    return (folder / _WEIGHTS / f"{number:05d}").absolute()


def remove_leftovers(folder: Path, chunks: int) -> None:
    """Delete what an interrupted conversion left in `folder`, except its first `chunks` chunks."""
    kept = {_WEIGHTS, *(_chunk_path(folder, number).name for number in range(chunks))}
    for path in [*folder.iterdir(), *(folder / _WEIGHTS).glob("*")]:
        if path.is_file():
            path.unlink()
        elif path.name not in kept:
            shutil.rmtree(path)


def write_manifest(folder: Path, manifest: Mapping) -> None:
    """Complete a checkpoint: add format and digests to the manifest and write it."""
    names = {f.name for f in folder.iterdir() if f.is_file()} | set(sidecars(folder))
    file_digests = {name: file_digest(folder / name) for name in sorted(names)}
    manifest = {"format": FORMAT, **manifest, "files": file_digests}
    text = json.dumps(manifest | {"sha256": _own_digest(manifest)}, indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint; it and the files beside the weights are verified.

    Raises:
        InputError: there is no converted checkpoint at `path`, it is of another format, or a file
            beside the weights has changed since conversion.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(
            f"{path} is not a converted checkpoint (it has no {MANIFEST}); "
            f"make one with: jaxdepth convert SOURCE {path}"
        )
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path / MANIFEST} is damaged or of another format: convert again")
    if manifest.pop("sha256", None) != _own_digest(manifest):
        raise InputError(f"{path / MANIFEST} is damaged: convert again")
    manifest = read_record_as(Manifest, manifest, str(path / MANIFEST), "convert again")
    for key, record in manifest["leaves"].items():
        sizes = record["shape"]
        if min(sizes, default=1) < 0 or math.prod(sizes[:9]) > _MAX_SIZE or len(sizes) > 9:
            raise InputError(
                f"{path / MANIFEST}: {key} has a shape that no array has: convert again"
            )
    for name in sorted({*sidecars(path), *manifest["files"]}):
        file = path / name
        if not file.is_file() or file_digest(file) != manifest["files"].get(name):
            raise InputError(f"{file} is not what was converted: convert again, to another folder")
    return manifest


def sidecars(folder: Path) -> list[str]:
    """The files beside the weights that decide what a model reads and where an answer ends."""
    names = [name for name in SIDECARS if (folder / name).is_file()]
    return list(dict.fromkeys([*tokenizer_files(folder), *names]))


def _own_digest(manifest: Mapping) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def load_tokenizer(path: Path) -> FastTokenizer | None:
    """The transformers fast tokenizer in a folder, or None if it has no tokenizer.json.

    Its chat template may be beside it, in the file of a processor.

    Raises:
        InputError: the files cannot be read.
    """
    if not (path / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast  # heavy

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    except Exception as error:  # tokenizers raises plain Exception
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"the tokenizer in {path} cannot be read ({reason})") from None
    return checked_tokenizer(tokenizer, path)


def checked_tokenizer(tokenizer: FastTokenizer, path: Path) -> FastTokenizer:
    """A tokenizer from a folder, with the chat template of a processor if it has none of its own.

    Raises:
        InputError: an id is so high that writing the tokenizer, a step for each id up to there,
            would not end; or the processor's file has no template.
    """
    last = max(tokenizer.get_vocab().values(), default=0)
    if last > _MAX_TOKEN_ID:
        raise InputError(f"the tokenizer in {path} has a token with the id {last}: fetch it again")
    if not tokenizer.chat_template and (path / PROCESSOR_TEMPLATE).is_file():
        tokenizer.chat_template = _processor_template(path / PROCESSOR_TEMPLATE)
    return tokenizer


def _processor_template(file: Path) -> str:
    content = read_json(file)
    template = content.get("chat_template") if isinstance(content, dict) else None
    if not isinstance(template, str):
        raise InputError(f"{file} has no chat_template: fetch it again")
    return template


def end_tokens(path: str | Path, tokenizer: FastTokenizer | None) -> tuple[int, ...]:
    """The ids of the tokens that end an answer, from the model's files and its tokenizer.

    Args:
        path: a checkpoint or a Hugging Face folder.
        tokenizer: its tokenizer, or None.

    Raises:
        InputError: a file names something else than a token id or a list of them.
    """
    path = Path(path)
    end_ids = set() if tokenizer is None else {tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        config = read_json(path / name) if (path / name).is_file() else {}
        ids = config.get("eos_token_id") if isinstance(config, dict) else config
        for i in ids if isinstance(ids, list) else [ids]:
            if i is not None and (type(i) is not int or not 0 <= i <= _MAX_TOKEN_ID):
                raise InputError(
                    f"{path / name}: eos_token_id is {str(ids)[:60]}, expected a token id or a "
                    "list of them"
                )
            end_ids.add(i)
    return tuple(sorted(i for i in end_ids if i is not None))


def fingerprint(config: ModelConfig, records: Mapping[str, Mapping]) -> str:
    """One digest for a model: of its config and of all its arrays.

    A field of the config that has its default is left out, so that a new field does not change the
    fingerprint of the models that do not use it.

    Args:
        config: the shape of the model.
        records: of all its arrays, by key.
    """
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    changed = {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}
    text = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    lines = [f"ModelConfig({text})", *(f"{k} {records[k]['sha256']}" for k in sorted(records))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
