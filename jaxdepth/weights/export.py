"""Export a checkpoint, truncated or with an adapter merged in, as a Hugging Face folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.model import FastTokenizer
from jaxdepth.model.apart import matrix_of_layer
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.runtime.distributed import is_distributed, raise_on_all
from jaxdepth.runtime.lock import hold_target
from jaxdepth.weights.adapter import adapter_digest
from jaxdepth.weights.atomic_folder import atomic_folder, scratch_folder, writing_error
from jaxdepth.weights.checkpoint import read_manifest
from jaxdepth.weights.convert import convert_locked
from jaxdepth.weights.exported.config import exported_config
from jaxdepth.weights.exported.record import check_same_checkpoint, check_same_export, write_record
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
) -> bool:
    """Write a checkpoint, with an adapter merged in, as a Hugging Face folder.

    Args:
        path: a folder made by `jaxdepth convert`.
        target: the folder to make; it appears complete or not at all. What an interrupted export
            left is removed. Its file jaxdepth_export.json says what it was made from.
        adapter: as for `jaxdepth.load`.
        dtype: of the written weights; None keeps that of the checkpoint.
        exit_layer: after how many layers the model is truncated; the final norm and the head stay.
            None keeps all layers.

    Returns:
        True if it was exported, False if `target` already holds this very export.

    Raises:
        InputError: `target` exists or cannot be written, another process is at work on it, there is
            no such exit, a lens reads the exit, or as for `jaxdepth.load`.
    """
    exported = Exported(Path(path), adapter, dtype, exit_layer)
    target = Path(target)
    with _alone(target):
        request = exported.record()
        if target.exists():
            check_same_export(target, request)
            return False
        contents = exported.read()
        with atomic_folder(target) as folder:
            contents.write(folder)
            write_record(folder, request)
    return True


def export_checkpoint(
    path: str | Path,
    target: str | Path,
    adapter: str | None = None,
    dtype: str | None = None,
    exit_layer: int | None = None,
) -> bool:
    """Write a checkpoint, truncated or with an adapter merged in, as a checkpoint of its own.

    Arguments, errors and what is returned as `export`. While it works it needs space for two
    copies.
    """
    exported = Exported(Path(path), adapter, dtype, exit_layer)
    target = Path(target)
    with _alone(target):
        request = exported.record()
        if target.exists():
            check_same_checkpoint(target, request)
            return False
        contents = exported.read()
        with scratch_folder(target) as between:
            contents.write(between)
            convert_locked(between, target, source_name=exported.name, export=request)
    return True


@dataclass(frozen=True)
class Exported:
    """What is exported: a checkpoint, an adapter, a dtype, and where the model is truncated."""

    path: Path
    adapter: str | None
    dtype: str | None
    exit_layer: int | None

    @property
    def name(self) -> str:
        """What it is, for people."""
        name = f"{self.path} with {self.adapter}" if self.adapter else str(self.path)
        return name if self.exit_layer is None else f"{name} at exit {self.exit_layer}"

    def record(self) -> dict[str, Any]:
        """What identifies it."""
        return {
            "fingerprint": read_manifest(self.path)["fingerprint"],
            "adapter_sha256": None if self.adapter is None else adapter_digest(self.adapter),
            "dtype": self.dtype,
            "exit": self.exit_layer,
        }

    def read(self) -> "_Contents":
        """Load the model, and check that it can be exported."""
        raw = read_json(self.path / "config.json")
        model, tokenizer = load(self.path, dtype=self.dtype, adapter=self.adapter, apart=False)
        layers = model.depth if self.exit_layer is None else self.exit_layer
        if not 1 <= layers <= model.depth:
            raise InputError(f"exit {layers}: expected one of 1 to {model.depth}")
        _check_lens(model, self.adapter, self.exit_layer)
        config = exported_config(raw, model.config, str(model.embed[...].dtype), layers)
        changed = None if self.adapter is None else tokenizer
        return _Contents(self.path, model, config, changed)


@dataclass(frozen=True)
class _Contents:
    """What an exported folder holds."""

    path: Path  # of the checkpoint
    model: Mistral
    config: dict[str, Any]
    tokenizer: FastTokenizer | None  # None is the checkpoint's own

    def write(self, folder: Path) -> None:
        text = json.dumps(self.config, indent=1) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        write_tokenizer(self.path, self.tokenizer, folder)
        _write_weights(self.model, ModelConfig.from_hf(self.config), folder)
        mode = (folder / "config.json").stat().st_mode
        for file in folder.glob("*.safetensors"):
            file.chmod(mode)  # safetensors lets nobody else read what it writes


def model_tensor(model: Mistral, tensor: MappedTensor) -> np.ndarray:
    """A tensor of a model as a Hugging Face checkpoint stores it, in the model's dtype."""
    layer, name = tensor.layer_and_parameter
    if layer is None:
        return np.asarray(getattr(model, name)[...])
    array = matrix_of_layer(model.layers, name.removeprefix("layers."), layer)
    return np.ascontiguousarray(tensor.transpose(np.asarray(array)))


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the lock of the target, which no other process of this job may want."""
    if is_distributed():
        raise_on_all(InputError("`jaxdepth export` runs in one process: run it on one host"))
    with hold_target(target):
        yield


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
            raise writing_error(error) from None
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
