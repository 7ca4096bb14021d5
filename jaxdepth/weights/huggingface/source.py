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
from jaxdepth.model.config import ModelConfig, block_config, parse_config
from jaxdepth.model.families import FUSED, WRAPPERS
from jaxdepth.weights.finite import check_finite
from jaxdepth.weights.huggingface.fused import Part, fused_parts
from jaxdepth.weights.huggingface.image_models import text_name
from jaxdepth.weights.huggingface.shards import INDEX_NAME, SINGLE_NAME, find_shards
from jaxdepth.weights.quantised.methods import find_packed, take_settings
from jaxdepth.weights.quantised.packed import Header, Packed, Settings
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor, tensor_map

# Buffers in old checkpoints, which RoPE computes anew.
_IGNORED = ("rotary_emb.inv_freq",)
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_STORED = _DTYPES | {  # and those of the tensors that hold a quantised weight
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F64": np.float64,
    "I8": np.int8,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
}


class SafetensorsSource:
    """A Hugging Face folder: config.json and one or more safetensors, with or without an index.

    Its attributes are those of every source; see `jaxdepth.weights.sources`. `folder` is where its
    files are, `model_type` that of its own config. Shapes and config are those of the block that is
    read: the text model of an image model, matrices that are not fused. Quantised weights are
    dequantised to float32 as they are read.
    """

    tensor_names: Mapping[str, str] = HF_NAMES
    kind = "a Hugging Face folder"
    quantisation: Settings | None = None

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
        self._dtype_and_offset: dict[str, tuple[str, int]] = {}  # offset in the file, in bytes
        self._packed: Mapping[str, Packed] = {}  # quantised weights, by name
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._read_header(file)
        self._check_index(folder / INDEX_NAME)
        self._find_quantised()
        self._drop_tied_head()

    def _read_config(self) -> dict[str, Any]:
        """The config of the block, after a check that the model is supported."""
        path = self.folder / "config.json"
        raw, self.quantisation = take_settings(read_json(path), self.folder)
        parse_config(raw, path)
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
        """A tensor in the file's own dtype, or dequantised to float32.

        Raises:
            InputError: it has NaN or infinite values, or the file has been truncated.
        """
        array, file = self._read_named(tensor.source)
        check_finite(array, tensor.source, file)
        return array

    def nbytes(self, tensor: MappedTensor) -> int:
        """The bytes of a tensor when read."""
        if tensor.source in self._packed:
            return math.prod(tensor.shape) * np.dtype(np.float32).itemsize
        dtype, _ = self._dtype_and_offset[tensor.source]
        return math.prod(tensor.shape) * np.dtype(_DTYPES[dtype]).itemsize

    def _read_stored(self, name: str) -> np.ndarray:
        """A tensor as it is in its file."""
        file, (dtype, offset) = self._file_of[name], self._dtype_and_offset[name]
        shape = self._stored_shapes[name]
        # `fromfile` is several times faster than a copy from a memory map.
        array = np.fromfile(file, _STORED[dtype], math.prod(shape), offset=offset)
        if array.size < math.prod(shape):
            raise InputError(f"{file} was truncated while it was read: fetch it again")
        return array.reshape(shape)

    def _read_named(self, name: str) -> tuple[np.ndarray, Path]:
        """A tensor of `shapes`, and its file or that of its first part."""
        packed = self._packed.get(name)
        if packed is None:
            return self._read_stored(name), self._file_of[name]
        parts = {role: self._read_stored(part) for role, part in packed.parts.items()}
        file = self._file_of[next(iter(packed.parts.values()))]
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused
                return packed.dequantise(parts), file
        except InputError as error:
            raise InputError(f"{file}: tensor {name}: {error}") from None

    def _find_quantised(self) -> None:
        """Replace the parts of quantised weights by these, in `shapes`.

        Raises:
            InputError: a part is missing or of a wrong shape, or belongs to no weight.
        """
        self._stored_shapes = dict(self.shapes)
        headers = {n: Header(self._dtype_and_offset[n][0], s) for n, s in self.shapes.items()}
        if self.quantisation is not None:
            try:
                found = find_packed(self.quantisation, headers, self._read_stored)
            except InputError as error:
                raise InputError(f"{self.name}: {error}") from None
            parts = {part for packed in found.packed.values() for part in packed.parts.values()}
            kept = {n: s for n, s in self.shapes.items() if n not in parts | found.ignored}
            self._packed = found.packed
            self.shapes = kept | {name: packed.shape for name, packed in found.packed.items()}
            self._drop_zero_biases()
        for name in self.shapes:
            dtype = self._dtype_and_offset[name][0] if name not in self._packed else "F32"
            if dtype not in _DTYPES:
                by = "config.json names no quantisation"
                if self.quantisation is not None:
                    method = self.quantisation["quant_method"]
                    by = f"it is no part of a weight quantised by {method}"
                raise InputError(
                    f"{self._file_of[name]}: tensor {name} is {dtype}, expected one of "
                    f"{', '.join(_DTYPES)}: {by}"
                )

    def _drop_zero_biases(self) -> None:
        """Ignore biases that the model does not have; some tools write zeros for them."""
        expected = {tensor.source for tensor in tensor_map(self.config, self.tensor_names)}
        for weight in self._packed:
            bias = weight.removesuffix("weight") + "bias"
            if bias in self.shapes and bias not in expected and not self._read_stored(bias).any():
                del self.shapes[bias]

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
        if dtype not in _STORED:
            raise InputError(
                f"{file}: tensor {part.name} is {dtype}, expected one of {', '.join(_STORED)}"
            )
        if part.name in self._file_of:
            raise InputError(f"{file}: tensor {part.name} is there under two names: remove one")
        row = math.prod(part.shape[1:]) * np.dtype(_STORED[dtype]).itemsize
        self._file_of[part.name], self.shapes[part.name] = file, part.shape
        self._dtype_and_offset[part.name] = dtype, offset + part.first_row * row

    def _check_index(self, index: Path) -> None:
        """Compare the index, if there is one, with the headers of the shards that are read."""
        if not index.exists():
            return
        is_single = [file.name for file in self.files] == [SINGLE_NAME]
        for name, shard in read_json(index)["weight_map"].items():
            if name.endswith(_IGNORED):
                continue
            if is_single and PurePosixPath(shard).name != SINGLE_NAME:
                continue  # an index that earlier shards have left behind
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
        if head in self._packed or embed in self._packed:
            raise InputError(
                f"{self.name}: {head} or {embed} is quantised, but tie_word_embeddings is true"
            )
        if embed not in self.shapes:  # what writes files keeps one name of two
            self.shapes[embed] = self.shapes.pop(head)
            self._file_of[embed] = self._file_of.pop(head)
            self._dtype_and_offset[embed] = self._dtype_and_offset.pop(head)
            self._stored_shapes[embed] = self._stored_shapes.pop(head)
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
        offset += start * np.dtype(_STORED[dtype]).itemsize
        return np.fromfile(self._file_of[name], _STORED[dtype], size, offset=offset)


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
