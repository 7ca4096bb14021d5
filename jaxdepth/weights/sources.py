"""Weight files of other tools, opened without reading them: names, shapes, one tensor at a time.

A source offers `.shapes` (tensor name -> shape), `.files` (what it reads from), `.where` (its name
in messages), `.names` (its naming scheme), `.nbytes(piece)` and `.read(piece)` (one array, checked
to be finite).
Only safetensors and GGUF are read; formats that can run code on loading are not.
"""

import json
import math
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.weights.gguf.header import check_header, check_places
from jaxdepth.weights.gguf.parts import check_parts, find_parts
from jaxdepth.weights.hub import fetch_model, is_hub_id
from jaxdepth.weights.shards import INDEX_NAME, find_shards
from jaxdepth.weights.tensor_map import GGUF_NAMES, HF_NAMES, Piece

_BLOCK = 2**17
# Buffers that old files carry and that RoPE computes anew.
_RECOMPUTED = ("rotary_emb.inv_freq",)
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def open_source(source: str | Path) -> "SafetensorsSource | GGUFSource":
    """The weights of a Hugging Face folder, a GGUF file, or a model that the hub names.

    Raises:
        InputError: there is nothing there that can be read.
    """
    path = Path(source)
    if not path.exists():
        if not is_hub_id(str(source)):
            raise InputError(
                f"{path} does not exist: expected a Hugging Face folder or a .gguf file"
            )
        return SafetensorsSource(fetch_model(str(source)), str(source))
    if path.is_dir():
        return SafetensorsSource(path)
    if path.suffix.lower() == ".gguf":
        return GGUFSource(path)
    raise InputError(f"{path} is neither a folder with safetensors nor a .gguf file")


class SafetensorsSource:
    """A Hugging Face folder: config.json and one or many safetensors, with or without index."""

    names = HF_NAMES

    def __init__(self, folder: Path, called: str | None = None):
        self.where = called or str(folder)
        self.folder = folder
        self.config, self.raw_config = read_config(folder / "config.json")
        self.files = find_shards(folder)
        self._file_of: dict[str, Path] = {}
        self._where: dict[str, tuple[type, int]] = {}  # dtype, and place in the file in bytes
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._read_header(file)
        self._check_index(folder / INDEX_NAME)
        self._drop_tied_head()

    def read(self, piece: Piece) -> np.ndarray:
        """The piece's array, in the file's own dtype.

        Raises:
            InputError: the tensor holds NaN or infinity.
        """
        file, (dtype, place) = self._file_of[piece.source], self._where[piece.source]
        # Straight into an array of its own: several times faster than through a map of the file.
        array = np.fromfile(file, np.dtype(dtype), math.prod(piece.shape), offset=place)
        if array.size < math.prod(piece.shape):
            raise InputError(f"{file} was cut short while it was read: fetch it again")
        array = array.reshape(piece.shape)
        _check_finite(array, piece.source, file)
        return array

    def nbytes(self, piece: Piece) -> int:
        """The bytes of the piece's array, by the file's header."""
        return math.prod(piece.shape) * np.dtype(self._where[piece.source][0]).itemsize

    def _read_header(self, file: Path) -> None:
        with _open_safetensors(file) as handle:
            starts = _starts(file)
            for name in handle.keys():  # noqa: SIM118 (a safetensors handle is not a mapping)
                if name.endswith(_RECOMPUTED):
                    continue
                if name in self._file_of:
                    raise InputError(
                        f"tensor {name} is in both {self._file_of[name].name} and {file.name}: "
                        "remove the shard that does not belong"
                    )
                view = handle.get_slice(name)
                if view.get_dtype() not in _FLOATS:
                    raise InputError(
                        f"{file}: tensor {name} is {view.get_dtype()}, expected one of "
                        f"{', '.join(_FLOATS)}: quantised checkpoints are not supported"
                    )
                self._file_of[name] = file
                self.shapes[name] = tuple(view.get_shape())
                self._where[name] = _FLOATS[view.get_dtype()], starts[name]

    def _check_index(self, index: Path) -> None:
        if not index.exists():
            return
        for name, shard in read_json(index)["weight_map"].items():
            if name.endswith(_RECOMPUTED):
                continue
            found = self._file_of.get(name)
            if found is None or found.name != PurePosixPath(shard).name:
                place = "nowhere" if found is None else f"in {found.name}"
                raise InputError(
                    f"{index.name} says that tensor {name} is in {shard}, but it is {place}: "
                    "fetch the model again"
                )

    def _drop_tied_head(self) -> None:
        """A tied model may carry its head a second time; then the two must agree."""
        head, embed = HF_NAMES["head"], HF_NAMES["embed"]
        if not self.config.tie_word_embeddings or head not in self.shapes:
            return
        with _open_safetensors(self._file_of[head]) as one:
            head_VD = one.get_tensor(head)
        if embed in self._file_of:
            with _open_safetensors(self._file_of[embed]) as other:
                same = np.array_equal(head_VD, other.get_tensor(embed))
            if not same:
                raise InputError(
                    f"{head} differs from {embed}, but tie_word_embeddings is true: set it to false"
                )
        del self.shapes[head], self._file_of[head]


class GGUFSource:
    """A GGUF file of the llama or qwen2 architecture, or its parts, dequantised to float32."""

    names = GGUF_NAMES

    def __init__(self, file: Path):
        from jaxdepth.weights.gguf.config import gguf_config

        self.where = str(file)
        self.files = find_parts(file)
        parts = [_open_gguf(part) for part in self.files]
        check_parts(self.files, [of for of, _ in parts], [len(held) for _, held in parts])
        self.fields = parts[0][0]
        self._tensors, self._file_of = {}, {}
        for part, (_, held) in zip(self.files, parts, strict=True):
            for tensor in held:
                if tensor.name in self._tensors:
                    raise InputError(f"{part} holds tensor {tensor.name} a second time")
                self._tensors[tensor.name], self._file_of[tensor.name] = tensor, part
        # GGUF lists the fastest axis first.
        self.shapes = {n: tuple(int(d) for d in t.shape[::-1]) for n, t in self._tensors.items()}
        try:
            self.raw_config = gguf_config(self.fields, self.shapes)
            self.config = ModelConfig.from_hf(self.raw_config)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    def read(self, piece: Piece) -> np.ndarray:
        """The piece's array in float32, q and k rows in Hugging Face's order.

        Raises:
            InputError: the tensor cannot be dequantised, or holds NaN or infinity.
        """
        from gguf import dequantize

        tensor, file = self._tensors[piece.source], self._file_of[piece.source]
        try:
            array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        except (ValueError, NotImplementedError) as error:
            kind = tensor.tensor_type.name
            raise InputError(
                f"{file}: tensor {piece.source} of type {kind} cannot be dequantised "
                f"({_one_line(error)})"
            ) from None
        _check_finite(array, piece.source, file)
        if piece.heads is not None and self.fields["general.architecture"] == "llama":
            array = _unpermute(array, piece.heads)
        return np.ascontiguousarray(array)

    def nbytes(self, piece: Piece) -> int:
        """The bytes of the piece's array, dequantised."""
        return math.prod(piece.shape) * 4


def _open_gguf(file: Path) -> tuple[dict, list]:
    """The metadata of a GGUF file, and its tensors as the reader gives them: mapped, not read."""
    from gguf import GGUFReader

    try:
        check_header(file)
        reader = GGUFReader(file)
        check_places(reader.tensors, reader.data_offset, int(reader.alignment))
        return {k: f.contents() for k, f in reader.fields.items()}, reader.tensors
    except Exception as error:  # the reader fails in many ways on a damaged file
        raise InputError(
            f"{file} is not a readable GGUF file ({_one_line(error)}): fetch it again"
        ) from None


def _unpermute(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's reordering of q and k rows.

    It interleaves the two halves of each head (RoPE on neighbours); we rotate halves.
    """
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _open_safetensors(file: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="np")
    except SafetensorError as error:
        raise InputError(
            f"{file} is cut short or not safetensors ({_one_line(error)}): fetch it again"
        ) from None


def _starts(file: Path) -> dict[str, int]:
    """Where each tensor of a file begins, in bytes; of a header that safetensors has accepted."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + said["data_offsets"][0] for name, said in header.items()}


def _check_finite(array: np.ndarray, name: str, file: Path) -> None:
    flat = array.reshape(-1)
    if array.dtype == ml_dtypes.bfloat16:  # exponent bits all set: NaN or infinity
        flat = flat.view(np.uint16)

    def bad(block: np.ndarray) -> int:
        if array.dtype == ml_dtypes.bfloat16:
            return int(((block & 0x7FFF) >= 0x7F80).sum())
        return int((~np.isfinite(block)).sum())

    # By blocks that stay in the processor's cache: several times faster.
    count = sum(bad(flat[i : i + _BLOCK]) for i in range(0, flat.size, _BLOCK))
    if count:
        raise InputError(
            f"tensor {name} in {file} holds {count} values that are NaN or infinite: "
            "the file is damaged or the training diverged"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
