"""A GGUF model as a source of weights."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor, dequantize

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import check_finite
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.gguf.config import ARCHITECTURES, gguf_config
from jaxdepth.weights.gguf.header import check_header, check_offsets
from jaxdepth.weights.gguf.parts import check_parts, find_parts
from jaxdepth.weights.gguf.rope import DIVISORS
from jaxdepth.weights.tensor_map import GGUF_NAMES, MappedTensor, unpermute


class GGUFSource:
    """A GGUF file of a supported architecture, or its parts, dequantised to float32.

    Its attributes are those of every source; see `jaxdepth.weights.sources`. `fields` is the
    metadata of the first file.
    """

    tensor_names = GGUF_NAMES
    quantisation = None  # each tensor has a type of its own

    def __init__(self, file: Path):
        """Open the model that `file` is, or is a part of.

        Raises:
            InputError: a file is damaged or missing, or the model is not supported.
        """
        self.name = str(file)
        self.files = find_parts(file)
        parts = [_open_gguf(part) for part in self.files]
        fields_of_parts, tensors_of_parts = zip(*parts, strict=True)
        check_parts(self.files, fields_of_parts, list(map(len, tensors_of_parts)))
        self.fields = fields_of_parts[0]
        self._tensors: dict[str, ReaderTensor] = {}
        self._file_of: dict[str, Path] = {}
        for part, tensors in zip(self.files, tensors_of_parts, strict=True):
            for tensor in tensors:
                if tensor.name in self._tensors:
                    raise InputError(f"{part} holds tensor {tensor.name} a second time")
                self._tensors[tensor.name], self._file_of[tensor.name] = tensor, part
        # GGUF lists the fastest axis first.
        self.shapes = {n: tuple(int(d) for d in t.shape[::-1]) for n, t in self._tensors.items()}
        divisors = self._take_rope_divisors()
        try:
            self.raw_config = gguf_config(self.fields, self.shapes, divisors)
            self.config = ModelConfig.from_hf(self.raw_config)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    def read(self, tensor: MappedTensor) -> np.ndarray:
        """A tensor in float32, the rows of q and k in Hugging Face's order.

        Raises:
            InputError: it cannot be dequantised, or has NaN or infinite values.
        """
        array = self._dequantise(tensor.source)
        if tensor.heads is not None and ARCHITECTURES[self.fields["general.architecture"]]:
            array = unpermute(array, tensor.heads)
        return np.ascontiguousarray(array)

    def _dequantise(self, name: str) -> np.ndarray:
        quantised, file = self._tensors[name], self._file_of[name]
        try:
            array = dequantize(quantised.data, quantised.tensor_type).astype(np.float32)
        except (ValueError, NotImplementedError) as error:
            kind = quantised.tensor_type.name
            raise InputError(
                f"{file}: tensor {name} of type {kind} cannot be dequantised ({one_line(error)})"
            ) from None
        check_finite(array, name, file)
        return array

    def _take_rope_divisors(self) -> np.ndarray | None:
        """The divisors of RoPE's frequencies, which are no parameter of the model; or None."""
        if self.shapes.pop(DIVISORS, None) is None:
            return None
        return self._dequantise(DIVISORS)

    def nbytes(self, tensor: MappedTensor) -> int:
        """The bytes of a tensor, dequantised."""
        return math.prod(tensor.shape) * np.dtype(np.float32).itemsize


def _open_gguf(file: Path) -> tuple[dict[str, Any], list[ReaderTensor]]:
    """The metadata of a GGUF file, and its tensors as the reader gives them: mapped, not read."""
    if not file.is_file():  # a pipe, on which reading would wait
        raise InputError(f"{file} is not a file: fetch it again")
    try:
        check_header(file)
        reader = GGUFReader(file)
        check_offsets(reader.tensors, reader.data_offset, int(reader.alignment))
        return {k: f.contents() for k, f in reader.fields.items()}, reader.tensors
    except Exception as error:  # the reader fails in many ways on a damaged file
        raise InputError(
            f"{file} is not a readable GGUF file ({one_line(error)}): fetch it again"
        ) from None


def gguf_types(file: Path) -> list[str]:
    """The type of every tensor of a file, as GGUF names it."""
    return [tensor.tensor_type.name for tensor in GGUFReader(file).tensors]
