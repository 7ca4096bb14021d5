"""A Hugging Face folder as a source of weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import check_finite, read_json
from jaxdepth.model.config import ModelConfig, block_config, parse_config
from jaxdepth.model.families import FUSED, WRAPPERS
from jaxdepth.weights.huggingface.fused import Part, fused_parts
from jaxdepth.weights.huggingface.image_models import text_name
from jaxdepth.weights.huggingface.shards import INDEX_NAME, SINGLE_NAME, find_shards
from jaxdepth.weights.quantised.methods import find_packed, take_settings
from jaxdepth.weights.quantised.packed import Header, Packed, Settings
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor, tensor_map

# Buffers in old checkpoints, which RoPE computes anew.
_IGNORED = ("rotary_emb.inv_freq",)
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_DTYPES_OF_PARTS = {  # of the tensors that hold a quantised weight
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F64": np.float64,
    "I8": np.int8,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
}
_COMPARED = 2**24  # numbers of two tensors that are compared at once


class _Stored(NamedTuple):
    """A tensor of a file."""

    file: Path
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    offset: int  # in the file, in bytes

    @property
    def itemsize(self) -> int:
        return np.dtype((_DTYPES | _DTYPES_OF_PARTS)[self.dtype]).itemsize


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
        self._file_of: dict[str, Path] = {}  # by the names in the files, ours or not
        self._stored: dict[str, _Stored] = {}  # those of the block, by its own names
        for file in self.files:
            self._read_header(file)
        self._check_index(folder / INDEX_NAME)
        self._packed: Mapping[str, Packed] = {}  # quantised weights, each of several stored tensors
        # Each tensor of the block is some rows of one that is stored, or packed: from the first on.
        self._place: dict[str, tuple[str, int]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for whole, shape in self._find_quantised().items():
            self._add(whole, shape)
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

    def _own_name(self, name: str) -> str | None:
        """What the block calls a tensor of the files; None if it has no such tensor."""
        return text_name(name) if self.model_type in WRAPPERS else name

    def read(self, tensor: MappedTensor) -> np.ndarray:
        """A tensor in the file's own dtype, or dequantised to float32.

        Raises:
            InputError: it has NaN or infinite values, or the file has been truncated.
        """
        array = self._rows(tensor.source, 0, tensor.shape[0])
        check_finite(array, tensor.source, self._file(tensor.source))
        return array

    def nbytes(self, tensor: MappedTensor) -> int:
        """The bytes of a tensor when read."""
        whole, _ = self._place[tensor.source]
        is_packed = whole in self._packed
        itemsize = np.dtype(np.float32).itemsize if is_packed else self._stored[whole].itemsize
        return math.prod(tensor.shape) * itemsize

    def _file(self, name: str) -> Path:
        """The file of a tensor, or that of its first part."""
        whole, _ = self._place[name]
        packed = self._packed.get(whole)
        return self._stored[next(iter(packed.parts.values())) if packed else whole].file

    def _rows(self, name: str, start: int, count: int) -> np.ndarray:
        """Some rows of a tensor of `shapes`."""
        whole, first = self._place[name]
        packed = self._packed.get(whole)
        if packed is None:
            return self._read_stored(whole, first + start, count)
        parts = {role: self._read_stored(part) for role, part in packed.parts.items()}
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused
                array = packed.dequantise(parts)
        except InputError as error:
            raise InputError(f"{self._file(name)}: tensor {whole}: {error}") from None
        return array if count == len(array) else array[first + start : first + start + count].copy()

    def _read_stored(self, name: str, start: int = 0, count: int | None = None) -> np.ndarray:
        """A tensor as it is in its file, or some of its rows."""
        stored = self._stored[name]
        shape = stored.shape if count is None else (count, *stored.shape[1:])
        offset = stored.offset + start * math.prod(stored.shape[1:]) * stored.itemsize
        dtype = (_DTYPES | _DTYPES_OF_PARTS)[stored.dtype]
        # `fromfile` is several times faster than a copy from a memory map.
        array = np.fromfile(stored.file, dtype, math.prod(shape), offset=offset)
        if array.size < math.prod(shape):
            raise InputError(f"{stored.file} was truncated while it was read: fetch it again")
        return array.reshape(shape)

    def _find_quantised(self) -> dict[str, tuple[int, ...]]:
        """The shapes of stored tensors, with quantised weights in the place of their parts.

        Raises:
            InputError: a part is missing or of a wrong shape, or belongs to no weight.
        """
        shapes = {name: stored.shape for name, stored in self._stored.items()}
        if self.quantisation is not None:
            headers = {name: Header(s.dtype, s.shape) for name, s in self._stored.items()}
            try:
                found = find_packed(self.quantisation, headers, self._read_stored)
            except InputError as error:
                raise InputError(f"{self.name}: {error}") from None
            self._packed = found.packed
            parts = {part for packed in found.packed.values() for part in packed.parts.values()}
            shapes = {n: s for n, s in shapes.items() if n not in parts | found.ignored}
            for bias in self._zero_biases():
                shapes.pop(bias, None)
        for name in shapes:
            if (dtype := self._stored[name].dtype) not in _DTYPES:
                by = "config.json names no quantisation"
                if self.quantisation is not None:
                    method = self.quantisation["quant_method"]
                    by = f"it is no part of a weight quantised by {method}"
                raise InputError(
                    f"{self._stored[name].file}: tensor {name} is {dtype}, expected one of "
                    f"{', '.join(_DTYPES)}: {by}"
                )
        return shapes | {name: packed.shape for name, packed in self._packed.items()}

    def _zero_biases(self) -> list[str]:
        """Biases that the model does not have; some tools write zeros for them."""
        expected = {tensor.source for tensor in tensor_map(self.config, self.tensor_names)}
        biases = [weight.removesuffix("weight") + "bias" for weight in self._packed]
        extra = [bias for bias in biases if bias in self._stored and bias not in expected]
        return [bias for bias in extra if not self._read_stored(bias).any()]

    def _add(self, whole: str, shape: tuple[int, ...]) -> None:
        """Add the tensors of the block that a stored or packed one holds."""
        parts = fused_parts(whole, shape, self.config) if self.model_type in FUSED else []
        for part in parts or [Part(whole, 0, shape)]:
            if part.name in self.shapes:
                raise InputError(f"{self.name}: tensor {part.name} is there twice: remove one")
            self.shapes[part.name], self._place[part.name] = part.shape, (whole, part.first_row)

    def _read_header(self, file: Path) -> None:
        with _open_safetensors(file) as handle:
            offsets = _offsets(file)
            for name in handle.keys():  # noqa: SIM118 (a safetensors handle is not a mapping)
                if name.endswith(_IGNORED):
                    continue
                if name in self._file_of:
                    raise InputError(
                        f"tensor {name} is in both {self._file_of[name].name} and {file.name}: "
                        "remove the shard that does not belong"
                    )
                self._file_of[name] = file
                own, tensor = self._own_name(name), handle.get_slice(name)
                if own is None:
                    continue
                if own in self._stored:
                    raise InputError(f"{file}: tensor {own} is there under two names: remove one")
                if tensor.get_dtype() not in _DTYPES | _DTYPES_OF_PARTS:
                    raise InputError(
                        f"{file}: tensor {name} is {tensor.get_dtype()}, expected one of "
                        f"{', '.join(_DTYPES | _DTYPES_OF_PARTS)}"
                    )
                shape = tuple(tensor.get_shape())
                self._stored[own] = _Stored(file, tensor.get_dtype(), shape, offsets[name])

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
            file = self._file_of.get(name)
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
            self.shapes[embed], self._place[embed] = self.shapes.pop(head), self._place.pop(head)
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
        del self.shapes[head], self._place[head]

    def _are_equal(self, name: str, other: str) -> bool:
        """Whether two tensors of one shape hold the same numbers; only parts are in memory."""
        rows, *row = self.shapes[name]
        step = max(1, _COMPARED // max(1, math.prod(row)))
        if self._place[name][0] in self._packed or self._place[other][0] in self._packed:
            step = rows  # each part would be dequantised whole
        return all(
            np.array_equal(self._rows(name, start, n), self._rows(other, start, n))
            for start in range(0, rows, step)
            for n in [min(step, rows - start)]
        )


def safetensors_headers(file: Path) -> dict[str, Header]:
    """Every tensor of a file by its name, from the header alone.

    Raises:
        InputError: it is no safetensors file, or truncated.
    """
    with _open_safetensors(file) as handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        return {k: Header(v.get_dtype(), tuple(v.get_shape())) for k, v in slices.items()}


def safetensors_dtypes(file: Path) -> list[str]:
    """The dtype of every tensor of a file, as safetensors names it."""
    return [header.dtype for header in safetensors_headers(file).values()]


def _open_safetensors(file: Path):
    if not file.is_file():  # a folder; a link to nothing; a pipe, on which reading would wait
        raise InputError(f"{file} is not a file: fetch it again")
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
