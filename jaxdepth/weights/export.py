"""Export a checkpoint to a Hugging Face folder, or to a checkpoint with an adapter merged in."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights.atomic_folder import atomic_folder
from jaxdepth.weights.convert import convert
from jaxdepth.weights.huggingface.shards import INDEX_NAME, SINGLE_NAME
from jaxdepth.weights.load import load
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor, tensor_map

SHARD_BYTES = 4 * 2**30
_GENERATION_CONFIG = "generation_config.json"


def export(
    path: str | Path, target: str | Path, adapter: str | None = None, dtype: str | None = None
) -> None:
    """Write a checkpoint, with an adapter merged in, as a Hugging Face folder.

    Args:
        path: a folder made by `jaxdepth convert`.
        target: the folder to make; it appears complete or not at all.
        adapter: as for `jaxdepth.load`.
        dtype: of the written weights; None keeps that of the checkpoint.

    Raises:
        InputError: `target` exists or cannot be written, the adapter is a lens, or as for
            `jaxdepth.load`.
    """
    path, target = Path(path), Path(target)
    _check_absent(target)
    model, tokenizer = load(path, dtype=dtype, adapter=adapter)
    if model.lens is not None:
        raise InputError(f"{adapter} is a lens, which the Hugging Face format has no place for")
    config = read_json(path / "config.json") | {"vocab_size": model.config.vocab_size}
    config |= {"torch_dtype": str(model.embed[...].dtype)}
    with atomic_folder(target) as folder:
        _write_weights(model, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        if (path / _GENERATION_CONFIG).is_file():
            shutil.copyfile(path / _GENERATION_CONFIG, folder / _GENERATION_CONFIG)


def export_checkpoint(
    path: str | Path, target: str | Path, adapter: str | None = None, dtype: str | None = None
) -> None:
    """Write a checkpoint with an adapter merged in as a checkpoint of its own.

    Arguments and errors as `export`. While it works it needs space for two copies.
    """
    path, target = Path(path), Path(target)
    _check_absent(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror or error})") from None
    with temporary as folder:
        merged = Path(folder) / target.name
        export(path, merged, adapter, dtype)
        convert(merged, target, source_name=f"{path} with {adapter}" if adapter else str(path))


def model_tensor(model: Mistral, tensor: MappedTensor) -> np.ndarray:
    """A tensor of a model as a Hugging Face checkpoint stores it, in the model's dtype."""
    layer, name = tensor.layer_and_parameter
    if layer is None:
        return np.asarray(getattr(model, name)[...])
    array = getattr(model.layers, name.removeprefix("layers."))[...][layer]
    return np.ascontiguousarray(tensor.transpose(np.asarray(array)))


def _check_absent(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} exists: name another folder, or remove it")


def _write_weights(model: Mistral, folder: Path) -> None:
    """Write the weights in one file, or in shards with the index that transformers reads."""
    shards = _shards(model)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [SINGLE_NAME]
    for name, shard in zip(names, shards, strict=True):
        arrays = {tensor.source: model_tensor(model, tensor) for tensor in shard}
        save_file(arrays, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        shard_of = {t.source: name for name, s in zip(names, shards, strict=True) for t in s}
        index = {"metadata": {}, "weight_map": shard_of}
        (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def _shards(model: Mistral) -> list[list[MappedTensor]]:
    shards: list[list[MappedTensor]] = [[]]
    size = 0
    itemsize = model.embed[...].dtype.itemsize
    for tensor in tensor_map(model.config, HF_NAMES):
        nbytes = int(np.prod(tensor.shape)) * itemsize
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += nbytes
    return shards
