"""Out of a checkpoint: to a Hugging Face folder, or to a checkpoint with an adapter merged in."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights.atomic_folder import whole_folder
from jaxdepth.weights.convert import convert
from jaxdepth.weights.load import load
from jaxdepth.weights.tensor_map import HF_NAMES, Piece, plan

SHARD_BYTES = 4 * 2**30
_KEPT = ("generation_config.json",)


def export(
    path: str | Path, target: str | Path, adapter: str | None = None, dtype: str | None = None
) -> None:
    """Writes a checkpoint, with an adapter merged in, as a Hugging Face folder.

    Args:
        path: a folder made by `jaxdepth convert`.
        target: the folder to make; it appears whole or not at all.
        adapter: as for `jaxdepth.load`.
        dtype: of the weights that are written; None keeps that of the checkpoint.

    Raises:
        InputError: `target` is there already or cannot be written, or as for `jaxdepth.load`.
    """
    path, target = Path(path), Path(target)
    if target.exists():
        raise InputError(f"{target} exists: name another folder, or remove it")
    model, tokenizer = load(path, dtype=dtype, adapter=adapter)
    raw = read_json(path / "config.json") | {"vocab_size": model.config.vocab_size}
    raw |= {"torch_dtype": str(model.embed[...].dtype)}
    with whole_folder(target) as partial:
        _write_weights(model, partial)
        (partial / "config.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        for name in _KEPT:
            if (path / name).is_file():
                shutil.copyfile(path / name, partial / name)


def export_checkpoint(
    path: str | Path, target: str | Path, adapter: str | None = None, dtype: str | None = None
) -> None:
    """Writes a checkpoint with an adapter merged in as a checkpoint of its own.

    Arguments and errors as `export`. Takes the room of two copies while it works.
    """
    path, target = Path(path), Path(target)
    if target.exists():
        raise InputError(f"{target} exists: name another folder, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        between = TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror or error})") from None
    with between as folder:
        merged = Path(folder) / target.name
        export(path, merged, adapter, dtype)
        convert(merged, target, called=f"{path} with {adapter}" if adapter else str(path))


def _write_weights(model: Mistral, folder: Path) -> None:
    """The weights in shards, with the index that transformers reads when there are several."""
    from safetensors.numpy import save_file

    shards: list[dict[str, Piece]] = [{}]
    size = 0
    itemsize = model.embed[...].dtype.itemsize
    for piece in plan(model.config, HF_NAMES):
        bytes_ = int(np.prod(piece.shape)) * itemsize
        if shards[-1] and size + bytes_ > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][piece.source] = piece
        size += bytes_
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in _count(shards)]
    for name, pieces in zip(names, shards, strict=True):
        arrays = {source: _array(model, piece) for source, piece in pieces.items()}
        save_file(arrays, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        where = {source: name for name, of in zip(names, shards, strict=True) for source in of}
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _count(items) -> range:
    return range(1, len(items) + 1)


def _array(model: Mistral, piece: Piece) -> np.ndarray:
    layer, leaf = piece.layer_and_leaf
    if layer is None:
        return np.asarray(getattr(model, leaf)[...])
    array = getattr(model.layers, leaf.removeprefix("layers."))[...][layer]
    return np.ascontiguousarray(piece.turn(np.asarray(array)))
