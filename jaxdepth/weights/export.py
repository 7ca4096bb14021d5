"""Export a checkpoint, truncated or with an adapter merged in, as a Hugging Face folder."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import read_json
from jaxdepth.model.apart import Apart
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights.atomic_folder import atomic_folder
from jaxdepth.weights.convert import convert
from jaxdepth.weights.exported.config import exported_config
from jaxdepth.weights.exported.tokenizer import write_tokenizer
from jaxdepth.weights.huggingface.shards import INDEX_NAME, SINGLE_NAME
from jaxdepth.weights.load import load
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor, tensor_map

SHARD_BYTES = 4 * 2**30


def export(
    path: str | Path,
    target: str | Path,
    adapter: str | None = None,
    dtype: str | None = None,
    exit_layer: int | None = None,
) -> None:
    """Write a checkpoint, with an adapter merged in, as a Hugging Face folder.

    Args:
        path: a folder made by `jaxdepth convert`.
        target: the folder to make; it appears complete or not at all. What an interrupted export
            left is removed.
        adapter: as for `jaxdepth.load`.
        dtype: of the written weights; None keeps that of the checkpoint.
        exit_layer: after how many layers the model is truncated; the final norm and the head stay.
            None keeps all layers.

    Raises:
        InputError: `target` exists or cannot be written, there is no such exit, a lens reads the
            exit, or as for `jaxdepth.load`.
    """
    path, target = Path(path), Path(target)
    _check_absent(target)
    raw = read_json(path / "config.json")
    model, tokenizer = load(path, dtype=dtype, adapter=adapter, apart=False)
    layers = model.depth if exit_layer is None else exit_layer
    if not 1 <= layers <= model.depth:
        raise InputError(f"exit {layers}: expected one of 1 to {model.depth}")
    _check_lens(model, adapter, exit_layer)
    written_dtype = str(model.embed[...].dtype)
    config = exported_config(raw, model.config, written_dtype, layers)
    with atomic_folder(target) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        write_tokenizer(path, None if adapter is None else tokenizer, folder)
        _write_weights(model, ModelConfig.from_hf(config), folder)
        mode = (folder / "config.json").stat().st_mode
        for file in folder.glob("*.safetensors"):
            file.chmod(mode)  # safetensors lets nobody else read what it writes


def export_checkpoint(
    path: str | Path,
    target: str | Path,
    adapter: str | None = None,
    dtype: str | None = None,
    exit_layer: int | None = None,
) -> None:
    """Write a checkpoint, truncated or with an adapter merged in, as a checkpoint of its own.

    Arguments and errors as `export`. While it works it needs space for two copies.
    """
    path, target = Path(path), Path(target)
    _check_absent(target)
    source_name = f"{path} with {adapter}" if adapter else str(path)
    if exit_layer is not None:
        source_name += f" at exit {exit_layer}"
    between = target.with_name(f".{target.name}.exporting")
    shutil.rmtree(between, ignore_errors=True)  # what an interrupted export left
    try:
        export(path, between, adapter, dtype, exit_layer)
        convert(between, target, source_name=source_name)
    finally:
        shutil.rmtree(between, ignore_errors=True)


def model_tensor(model: Mistral, tensor: MappedTensor) -> np.ndarray:
    """A tensor of a model as a Hugging Face checkpoint stores it, in the model's dtype."""
    layer, name = tensor.layer_and_parameter
    if layer is None:
        return np.asarray(getattr(model, name)[...])
    parameter = getattr(model.layers, name.removeprefix("layers."))
    is_apart = isinstance(parameter, Apart)
    array = parameter.matrices[layer][...] if is_apart else parameter[...][layer]
    return np.ascontiguousarray(tensor.transpose(np.asarray(array)))


def _check_absent(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} exists: name another folder, or remove it")


def _check_lens(model: Mistral, adapter: str | None, exit_layer: int | None) -> None:
    """Refuse a lens that reads what is exported.

    It stands between the last layer and the final norm. That norm divides by the length of what the
    lens returns, which depends on the text: other weights of norm and head cannot give the same.
    """
    if model.lens is None:
        return
    if exit_layer is None:
        raise InputError(f"{adapter} is a lens, which the Hugging Face format has no place for")
    if bool(model.lens.trained[...][exit_layer - 1]):
        raise InputError(
            f"{adapter} reads exit {exit_layer} through a lens before the final norm, which cannot "
            "be folded into the weights: export without it, or name an exit that has no lens"
        )


def _write_weights(model: Mistral, config: ModelConfig, folder: Path) -> None:
    """Write the weights in one file, or in shards with the index that transformers reads.

    Args:
        model: all layers.
        config: of those that are written.
        folder: where to.

    Raises:
        OSError: the disk is full.
    """
    itemsize = model.embed[...].dtype.itemsize
    shards = _shards(config, itemsize)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [SINGLE_NAME]
    for name, shard in zip(names, shards, strict=True):
        arrays = {tensor.source: model_tensor(model, tensor) for tensor in shard}
        try:
            save_file(arrays, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(one_line(error)) from None
    if len(shards) > 1:
        shard_of = {t.source: name for name, s in zip(names, shards, strict=True) for t in s}
        total = itemsize * sum(int(np.prod(t.shape)) for shard in shards for t in shard)
        index = {"metadata": {"total_size": total}, "weight_map": shard_of}
        (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def _shards(config: ModelConfig, itemsize: int) -> list[list[MappedTensor]]:
    shards: list[list[MappedTensor]] = [[]]
    size = 0
    for tensor in tensor_map(config, HF_NAMES):
        nbytes = int(np.prod(tensor.shape)) * itemsize
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += nbytes
    return shards
