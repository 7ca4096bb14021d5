"""The checkpoint on disk.

A checkpoint is a folder that appears whole or not at all:
    jaxdepth.json   what it is: source and its digests, and a digest of all that lies beside it
    config.json     as in the source (for GGUF: rebuilt from its metadata)
    tokenizer.json, tokenizer_config.json, chat_template.jinja ...   if the source had them
    weights/00000/ ...   Orbax; chunks of some arrays each, one array per layer and tensor, so that
                         nothing large is ever doubled; matrices as in the source, outputs first
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest, read_json
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.orbax_errors import quiet, reading

MANIFEST = "jaxdepth.json"
FORMAT = 3
SIDECARS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
_WEIGHTS = "weights"
_SAID = "leaves"
_MOST_TOKENS = 10_000_000


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, in C order and its own dtype."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def write_chunk(folder: Path, number: int, arrays: Mapping[str, np.ndarray], said) -> None:
    """Adds a chunk to the checkpoint that is being written in `folder`, whole or not at all.

    Args:
        folder: of the checkpoint.
        number: of the chunk; one that is there is replaced.
        arrays: key -> array.
        said: what is kept of them, for `chunk_said`.
    """
    from orbax.checkpoint import v1 as ocp

    place = _chunk(folder, number)
    shutil.rmtree(place, ignore_errors=True)
    context = ocp.Context()
    # Plain files: weights hardly shrink, and OCDBT copies them once more in memory.
    context.array.saving.use_compression = context.array.saving.use_ocdbt = False
    with context, quiet():
        ocp.save(place, dict(arrays), custom_metadata={_SAID: said})


def chunk_said(folder: Path, number: int):
    """What was kept of a chunk; None where it is not, or cannot be read."""
    from orbax.checkpoint import v1 as ocp

    place = _chunk(folder, number)
    if not place.is_dir():
        return None
    try:
        with quiet():
            return ocp.metadata(place).custom_metadata.get(_SAID)
    except Exception:  # Orbax raises many kinds; such a chunk is written anew
        return None


def read_chunk(
    folder: Path, number: int, shardings: Mapping[str, NamedSharding] | None = None
) -> dict[str, np.ndarray | jax.Array]:
    """The arrays of a chunk, on the host or in their shards.

    Raises:
        InputError: it is missing or damaged.
    """
    from orbax.checkpoint import v1 as ocp

    place = _chunk(folder, number)
    with reading(place, "convert again"):
        wanted = dict(ocp.metadata(place).metadata)
        if shardings is not None:
            wanted = {
                key: jax.ShapeDtypeStruct(said.shape, said.dtype, sharding=shardings[key])
                for key, said in wanted.items()
            }
        return dict(ocp.load(place, wanted))


def _chunk(folder: Path, number: int) -> Path:
    return (folder / _WEIGHTS / f"{number:05d}").absolute()


def clear(folder: Path, chunks: int) -> None:
    """Removes what an earlier writing left in `folder`, but for its first so many chunks."""
    kept = {_chunk(folder, number).name for number in range(chunks)}
    for left in [*folder.iterdir(), *(folder / _WEIGHTS).glob("*")]:
        if left.is_file():
            left.unlink()
        elif left.name not in {_WEIGHTS, *kept}:
            shutil.rmtree(left)


def finish(folder: Path, manifest: Mapping) -> None:
    """Ends the writing: from here on `folder` is whole."""
    beside = {f.name: file_digest(f) for f in sorted(folder.iterdir()) if f.is_file()}
    manifest = {"format": FORMAT, **manifest, "files": beside}
    text = json.dumps(manifest | {"sha256": _own_digest(manifest)}, indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(path: Path) -> dict:
    """What `jaxdepth.json` says of the checkpoint at `path`; it and the small files are checked.

    Raises:
        InputError: there is no converted checkpoint at `path`, it is of another format, or a file
            beside the weights is not what was converted.
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
    there = {name for name in SIDECARS if (path / name).is_file()}
    for name in sorted(there | set(manifest["files"])):
        file = path / name
        if not file.is_file() or file_digest(file) != manifest["files"].get(name):
            raise InputError(f"{file} is not what was converted: convert again, to another folder")
    return manifest


def _own_digest(manifest: Mapping) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def load_tokenizer(path: Path):
    """The transformers fast tokenizer in a folder, or None if it holds no tokenizer.json.

    Raises:
        InputError: the files are there but cannot be read.
    """
    if not (path / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    except Exception as error:  # tokenizers raises plain Exception
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"the tokenizer in {path} cannot be read ({reason})") from None
    last = max(tokenizer.get_vocab().values(), default=0)
    if last > _MOST_TOKENS:  # writing it would take a step for each id up to there
        raise InputError(f"the tokenizer in {path} has a token with the id {last}: fetch it again")
    return tokenizer


def end_tokens(path: str | Path, tokenizer) -> tuple[int, ...]:
    """The token ids that end an answer: those of the model's files, and of its tokenizer.

    Raises:
        InputError: a file says something else than a token id or a list of them.
    """
    path = Path(path)
    found = {None if tokenizer is None else tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        said = read_json(path / name) if (path / name).is_file() else {}
        ids = said.get("eos_token_id") if isinstance(said, dict) else said
        for i in ids if isinstance(ids, list) else [ids]:
            if i is not None and (type(i) is not int or not 0 <= i <= _MOST_TOKENS):
                raise InputError(
                    f"{path / name}: eos_token_id is {str(ids)[:60]}, expected a token id or a "
                    "list of them"
                )
            found.add(i)
    return tuple(sorted(found - {None}))


def fingerprint(config: ModelConfig, leaves: Mapping) -> str:
    """One digest for a model: its config and all its leaves.

    Fields of the config that are as they are by default are left out, so that a field that is added
    does not change the models that do not need it.
    """
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    usual = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    told = {k: v for k, v in values.items() if k not in usual or v != usual[k]}
    said = ", ".join(f"{name}={value!r}" for name, value in told.items())
    content = [f"ModelConfig({said})", *(f"{k} {leaves[k]['sha256']}" for k in sorted(leaves))]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()
