"""A Hugging Face folder as a source of weights."""

import json
import math
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import read_json
from jaxdepth.model.config import read_config
from jaxdepth.weights.finite import check_finite
from jaxdepth.weights.huggingface.shards import INDEX_NAME, SINGLE_NAME, find_shards
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor

# Buffers in old checkpoints, which RoPE computes anew.
_IGNORED = ("rotary_emb.inv_freq",)
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class SafetensorsSource:
    """A Hugging Face folder: config.json and one or more safetensors, with or without an index.

    Its attributes are those of every source; see `jaxdepth.weights.sources`. `folder` is where its
    files are.
    """

    tensor_names = HF_NAMES

    def __init__(self, folder: Path, name: str | None = None):
        """Open a folder, which messages call `name`, by default its path.

        Raises:
            InputError: a file is damaged or missing, or the model is not supported.
        """
        self.name = name or str(folder)
        self.folder = folder
        self.config, self.raw_config = read_config(folder / "config.json")
        self.files = find_shards(folder)
        self._file_of: dict[str, Path] = {}
        self._dtype_and_offset: dict[str, tuple[type, int]] = {}  # offset in the file, in bytes
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._read_header(file)
        self._check_index(folder / INDEX_NAME)
        self._drop_tied_head()

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
                if name in self._file_of:
                    raise InputError(
                        f"tensor {name} is in both {self._file_of[name].name} and {file.name}: "
                        "remove the shard that does not belong"
                    )
                tensor = handle.get_slice(name)
                if tensor.get_dtype() not in _DTYPES:
                    raise InputError(
                        f"{file}: tensor {name} is {tensor.get_dtype()}, expected one of "
                        f"{', '.join(_DTYPES)}: quantised checkpoints are not supported"
                    )
                self._file_of[name] = file
                self.shapes[name] = tuple(tensor.get_shape())
                self._dtype_and_offset[name] = _DTYPES[tensor.get_dtype()], offsets[name]

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
        """Ignore the copy of the embedding that a tied model may have as its head."""
        head, embed = HF_NAMES["head"], HF_NAMES["embed"]
        if not self.config.tie_word_embeddings or head not in self.shapes:
            return
        with _open_safetensors(self._file_of[head]) as handle:
            head_VD = handle.get_tensor(head)
        if embed in self._file_of:
            with _open_safetensors(self._file_of[embed]) as handle:
                is_copy = np.array_equal(head_VD, handle.get_tensor(embed))
            if not is_copy:
                raise InputError(
                    f"{head} differs from {embed}, but tie_word_embeddings is true: set it to false"
                )
        del self.shapes[head], self._file_of[head]


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
