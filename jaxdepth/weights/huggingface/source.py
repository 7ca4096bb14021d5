"""A Hugging Face folder as a source of weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import read_json
from jaxdepth.model.config import ModelConfig, block_config, read_config
from jaxdepth.model.families import FUSED, WRAPPERS
from jaxdepth.weights.finite import check_finite
from jaxdepth.weights.huggingface.fused import Part, fused_parts
from jaxdepth.weights.huggingface.image_models import text_name
from jaxdepth.weights.huggingface.shards import INDEX_NAME, find_shards
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor

# Buffers in old checkpoints, which RoPE computes anew.
_IGNORED = ("rotary_emb.inv_freq",)
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class SafetensorsSource:
    """A Hugging Face folder: config.json and one or more safetensors, with or without an index.

    Its attributes are those of every source; see `jaxdepth.weights.sources`. `folder` is where its
    files are, `model_type` that of its own config. Shapes and config are those of the block that is
    read: the text model of an image model, matrices that are not fused.
    """

    tensor_names: Mapping[str, str] = HF_NAMES
    kind = "a Hugging Face folder"

    def __init__(self, folder: Path, name: str | None = None):
        """Open a folder, which messages call `name`, by default its path.

        Raises:
            InputError: a file is damaged or missing, or the model is not supported.
        """
        self.name = name or str(folder)
        self.folder = folder
        self.raw_config = self._read_config()
        self.config = ModelConfig.from_hf(self.raw_config)
        self.files = self._find_files()
        self._stored: dict[str, Path] = {}  # the file of each tensor, by its name there
        self._file_of: dict[str, Path] = {}  # by the name of our map, as all below
        self._dtype_and_offset: dict[str, tuple[type, int]] = {}  # offset in the file, in bytes
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._read_header(file)
        self._check_index(folder / INDEX_NAME)
        self._drop_tied_head()

    def _read_config(self) -> dict[str, Any]:
        """The config of the block, after a check that the model is supported."""
        _, raw = read_config(self.folder / "config.json")
        self.model_type = str(raw["model_type"])
        return dict(block_config(raw))

    def _find_files(self) -> list[Path]:
        return find_shards(self.folder)

    def _parts(self, name: str, shape: tuple[int, ...]) -> list[Part]:
        """What a tensor of the files holds; nothing if the block has no such tensor."""
        if self.model_type in FUSED and (parts := fused_parts(name, shape, self.config)):
            return parts
        ours = text_name(name) if self.model_type in WRAPPERS else name
        return [] if ours is None else [Part(ours, 0, shape)]

    def read(self, tensor: MappedTensor) -> np.ndarray:
        """A tensor in the file's own dtype.

        Raises:
            InputError: it has NaN or infinite values, or the file has been truncated.
        """
        file, (dtype, offset) = self._file_of[tensor.source], self._dtype_and_offset[tensor.source]
        # `fromfile` is several times faster than a copy from a memory map.
        array = np.fromfile(file, np.dtype(dtype), math.prod(tensor.shape), offset=offset)
        if array.size < math.prod(tensor.shape):
            raise InputError(f"{file} was truncated while it was read: fetch it again")
        array = array.reshape(tensor.shape)
        check_finite(array, tensor.source, file)
        return array

    def nbytes(self, tensor: MappedTensor) -> int:
        """The bytes of a tensor."""
        dtype, _ = self._dtype_and_offset[tensor.source]
        return math.prod(tensor.shape) * np.dtype(dtype).itemsize

    def _read_header(self, file: Path) -> None:
        with _open_safetensors(file) as handle:
            offsets = _offsets(file)
            for name in handle.keys():  # noqa: SIM118 (a safetensors handle is not a mapping)
                if name.endswith(_IGNORED):
                    continue
                if name in self._stored:
                    raise InputError(
                        f"tensor {name} is in both {self._stored[name].name} and {file.name}: "
                        "remove the shard that does not belong"
                    )
                self._stored[name] = file
                tensor = handle.get_slice(name)
                for part in self._parts(name, tuple(tensor.get_shape())):
                    self._add(file, part, tensor.get_dtype(), offsets[name])

    def _add(self, file: Path, part: Part, dtype: str, offset: int) -> None:
        """Remember where a tensor of the block is; `offset` is that of the tensor it is part of."""
        if dtype not in _DTYPES:
            raise InputError(
                f"{file}: tensor {part.name} is {dtype}, expected one of {', '.join(_DTYPES)}: "
                "quantised checkpoints are not supported"
            )
        if part.name in self._file_of:
            raise InputError(f"{file}: tensor {part.name} is there under two names: remove one")
        row = math.prod(part.shape[1:]) * np.dtype(_DTYPES[dtype]).itemsize
        self._file_of[part.name], self.shapes[part.name] = file, part.shape
        self._dtype_and_offset[part.name] = _DTYPES[dtype], offset + part.first_row * row

    def _check_index(self, index: Path) -> None:
        """Compare the index, if there is one, with the headers of the shards."""
        if not index.exists():
            return
        for name, shard in read_json(index)["weight_map"].items():
            if name.endswith(_IGNORED):
                continue
            file = self._stored.get(name)
            if file is None or file.name != PurePosixPath(shard).name:
                actual = "nowhere" if file is None else f"in {file.name}"
                raise InputError(
                    f"{index.name} says that tensor {name} is in {shard}, but it is {actual}: "
                    "fetch the model again"
                )

    def _drop_tied_head(self) -> None:
        """Ignore the copy of the embedding that a tied model may have as its head, or under it."""
        head, embed = self.tensor_names["head"], self.tensor_names["embed"]
        if not self.config.tie_word_embeddings or head not in self.shapes:
            return
        if embed not in self.shapes:  # what writes files keeps one name of two
            self.shapes[embed] = self.shapes.pop(head)
            self._file_of[embed] = self._file_of.pop(head)
            self._dtype_and_offset[embed] = self._dtype_and_offset.pop(head)
            return
        if self.shapes[head] != self.shapes[embed] or not self._are_equal(head, embed):
            if self.model_type not in WRAPPERS:
                raise InputError(
                    f"{self.name}: {head} differs from {embed}, but tie_word_embeddings is true: "
                    "convert a copy of the folder in which it is false"
                )
            # As transformers: that of an image model is true by default.
            self.raw_config["tie_word_embeddings"] = False
            self.config = ModelConfig.from_hf(self.raw_config)
            return
        del self.shapes[head], self._file_of[head], self._dtype_and_offset[head]

    def _are_equal(self, name: str, other: str) -> bool:
        """Whether two tensors of one shape hold the same numbers; only parts are in memory."""
        count, size = math.prod(self.shapes[name]), 2**24
        return all(
            np.array_equal(self._part(name, start, size), self._part(other, start, size))
            for start in range(0, count, size)
        )

    def _part(self, name: str, start: int, size: int) -> np.ndarray:
        """Some numbers of a tensor as it is stored."""
        dtype, offset = self._dtype_and_offset[name]
        size = min(size, math.prod(self.shapes[name]) - start)
        offset += start * np.dtype(dtype).itemsize
        return np.fromfile(self._file_of[name], np.dtype(dtype), size, offset=offset)


def safetensors_dtypes(file: Path) -> list[str]:
    """The dtype of every tensor of a file, as safetensors names it."""
    with _open_safetensors(file) as handle:
        return [handle.get_slice(name).get_dtype() for name in handle.keys()]  # noqa: SIM118


def _open_safetensors(file: Path):
    try:
        return safe_open(file, framework="np")
    except SafetensorError as error:
        raise InputError(
            f"{file} is truncated or not safetensors ({one_line(error)}): fetch it again"
        ) from None


def _offsets(file: Path) -> dict[str, int]:
    """The byte at which each tensor starts, in a file whose header safetensors has accepted."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}
