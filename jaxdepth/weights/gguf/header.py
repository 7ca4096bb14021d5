"""The header of a GGUF file, held against the file before a reader believes it.

The reader that the `gguf` package has goes by what a header says: a count with one wrong byte keeps
it busy until memory ends, and a wrong place of a tensor gives it the numbers of another. Source:
the GGUF specification; that tensors lie end to end is what llama.cpp's `gguf.cpp` demands.
"""

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST_ITEMS = 4_000_000  # in all arrays; the largest vocabularies have a third of that
_MOST_AXES = 4


def check_header(file: Path) -> None:
    """Walks over a header.

    Raises:
        ValueError: it does not fit into the file, or holds what no model's header does.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _Walk(data).header()
        except struct.error:
            raise ValueError("it ends inside its header") from None


def check_places(tensors: Iterable, start: int, alignment: int) -> None:
    """Tensors must lie end to end, each filled up to the alignment.

    Args:
        tensors: as the `gguf` package's reader has them.
        start: where the first must begin, in bytes.
        alignment: in bytes.

    Raises:
        ValueError: one begins elsewhere.
    """
    for tensor in tensors:
        if tensor.data_offset != start:
            raise ValueError(
                f"tensor {tensor.name} begins at byte {tensor.data_offset}, expected {start}"
            )
        start += -(-tensor.n_bytes // alignment) * alignment


class _Walk:
    """A place in a file that moves forward, and never beyond its end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self.items = data, 0, 0

    def header(self) -> None:
        if self.bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self.number("<I")
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}, expected 2 or 3")
        tensors, fields = self.number("<Q"), self.number("<Q")
        for _ in range(fields):
            self.string()
            self.value(self.number("<I"))
        for _ in range(tensors):
            self.string()
            axes = self.number("<I")
            if axes > _MOST_AXES:
                raise ValueError(f"a tensor has {axes} axes")
            self.bytes(8 * axes + 4 + 8)  # sizes, type, place

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            kind, count = self.number("<I"), self.number("<Q")
            self.items += count
            if self.items > _MOST_ITEMS:
                raise ValueError(f"its header has arrays of {self.items} items")
            for _ in range(count):
                if kind == _ARRAY:
                    raise ValueError("its header has an array of arrays")
                self.value(kind)
        elif kind in _SIZES:
            self.bytes(_SIZES[kind])
        else:
            raise ValueError(f"its header has a value of type {kind}")

    def string(self) -> None:
        self.bytes(self.number("<Q"))

    def number(self, form: str) -> int:
        (found,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return found

    def bytes(self, count: int) -> bytes:
        """The next bytes; of many, only that they are there."""
        begin, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise struct.error
        return self.data[begin : begin + 4]
