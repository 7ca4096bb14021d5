"""Check the header of a GGUF file against the file, before the `gguf` package reads it.

The package's reader believes the header: a wrong count keeps it busy until memory ends, and a wrong
offset gives one tensor the numbers of another. Sources: the GGUF specification; llama.cpp's
`gguf.cpp`, which demands that tensors are contiguous.
"""

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

from gguf import ReaderTensor

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> bytes
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 4_000_000  # of all arrays together; the largest vocabularies have a third of that
_MAX_AXES = 4


def check_header(file: Path) -> None:
    """Parse a header.

    Raises:
        ValueError: it does not fit into the file, or has what no model's header has.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _HeaderParser(data).header()
        except struct.error:
            raise ValueError("it ends inside its header") from None


def check_offsets(tensors: Iterable[ReaderTensor], start: int, alignment: int) -> None:
    """Check that tensors are contiguous, each padded to the alignment.

    Args:
        tensors: as the `gguf` package reads them.
        start: the byte at which the first must begin.
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


class _HeaderParser:
    """Skips forward over the values of a header, never beyond the end of the file."""

    def __init__(self, data: mmap.mmap):
        self.data, self.offset, self.items = data, 0, 0

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
            if axes > _MAX_AXES:
                raise ValueError(f"a tensor has {axes} axes")
            self.bytes(8 * axes + 4 + 8)  # sizes, type, offset

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            kind, count = self.number("<I"), self.number("<Q")
            self.items += count
            if self.items > _MAX_ITEMS:
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

    def number(self, struct_format: str) -> int:
        (value,) = struct.unpack_from(struct_format, self.data, self.offset)
        self.offset += struct.calcsize(struct_format)
        return value

    def bytes(self, count: int) -> bytes:
        """Skip `count` bytes, which must exist; return at most the first four."""
        begin, self.offset = self.offset, self.offset + count
        if self.offset > len(self.data):
            raise struct.error
        return self.data[begin : begin + min(count, 4)]
