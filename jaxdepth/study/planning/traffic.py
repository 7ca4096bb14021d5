"""What a compiled GPU program does with the weights: how many bytes it reads, and what it copies.

The weights are followed from the program's arguments through its loops into each kernel, so that
what is counted is what the compiler decided. A kernel that slices reads the slice alone.
"""

import re
from dataclasses import dataclass

from jaxdepth.study.planning.compiled import (
    Computations,
    called_computations,
    result_bytes,
    split_program,
)

_PARTS = re.compile(r"^(.+?[\]})]) ([a-z][\w\-]*)\(([^)]*)\)")
_OPERAND = re.compile(r"%([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_WEIGHT = re.compile(r'op_name="model\b')
_ARRAYS = re.compile(r"\b[a-z]\w*\[[\d,]*\]")
_SLICES = {"slice", "dynamic-slice", "gather"}
_MIXES = re.compile(r" (?:dot|scaled-dot|convolution|reduce|gather)\(")
# Instructions that start no kernel.
_FREE = {
    "parameter", "constant", "bitcast", "tuple", "get-tuple-element", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip


@dataclass
class Traffic:
    """Of one run on one device."""

    read: int = 0  # bytes of weights, and of copies of them
    copied: int = 0  # bytes of copies of weights that are written
    copies: int = 0  # kernels that write one
    kernels: int = 0

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.copied


def weight_traffic(program: str, trips: int) -> Traffic:
    """Follow the weights through an optimised program.

    Args:
        program: its text. Its arguments that are called `model` are the weights.
        trips: of loops that may end early and therefore do not say how often they run.
    """
    computations, entry = split_program(program)
    reader = _Reader(computations, trips)
    reader.run(entry, None, 1)
    return reader.traffic


# A value of a program: the bytes of a weight, the values of a tuple, or None for all others.
_Value = int | list | None


class _Reader:
    """Runs the computations of a program on values."""

    def __init__(self, computations: Computations, trips: int):
        self.computations, self.trips = computations, trips
        self.traffic = Traffic()

    def run(self, name: str, arguments: list[_Value] | None, times: int) -> _Value:
        """Count one computation; the arguments of the entry are found by their name."""
        values: dict[str, _Value] = {}
        value: _Value = None
        for instruction, text in self.computations[name].items():
            parts = _PARTS.match(text)
            if parts is None:
                continue
            shape, operation, between = parts.groups()
            if operation == "parameter" and arguments is None:
                value = result_bytes(shape) if _WEIGHT.search(text) else None
            elif operation == "parameter":
                value = arguments[int(between)] if arguments else None
            else:
                operands = [values.get(operand) for operand in _OPERAND.findall(between)]
                value = self._result(text, shape, operation, operands, times)
            values[instruction] = value
        return value

    def _result(
        self, text: str, shape: str, operation: str, operands: list[_Value], times: int
    ) -> _Value:
        """The value of an instruction; what it moves is counted."""
        first = operands[0] if operands else None
        if operation == "tuple":
            return operands
        if operation == "get-tuple-element":
            index = _INDEX.search(text)
            return first[int(index[1])] if isinstance(first, list) and index else None
        if operation in ("bitcast", "opt-barrier") or operation.endswith("-done"):
            return first
        called = called_computations(text, self.computations)
        if operation == "while":
            for body, trips in called:
                self.run(body, [first], times * (self.trips if trips is None else trips))
            return first
        if operation in ("call", "async-start"):
            return self.run(called[0][0], operands, times)
        if operation == "conditional":
            for n, (branch, _) in enumerate(called):
                self.run(branch, operands[1 + n : 2 + n], times)
            return None
        if operation in _FREE:
            return None
        fused = self.computations[called[0][0]] if operation == "fusion" else {}
        return self._kernel(shape, operation, operands, fused, times)

    def _kernel(
        self,
        shape: str,
        operation: str,
        operands: list[_Value],
        fused: dict[str, str],
        times: int,
    ) -> _Value:
        self.traffic.kernels += times
        read = sum(
            _bytes_read(fused, n, weight)
            for n, weight in enumerate(operands)
            if isinstance(weight, int)
        )
        is_started = operation.endswith("-start")  # it goes on while other kernels run
        written = result_bytes(shape, is_started)
        if operation.removesuffix("-start") in _SLICES:
            read = min(read, written)
        self.traffic.read += times * read
        mixes = operation == "custom-call" or any(map(_MIXES.search, fused.values()))
        if mixes or not read or written < read / 2:
            return None
        self.traffic.copies += times
        self.traffic.copied += times * written
        if is_started or not shape.startswith("("):
            return written
        return [result_bytes(part) for part in _ARRAYS.findall(shape)]


def _bytes_read(fused: dict[str, str], number: int, whole: int) -> int:
    """What a fusion reads of its parameter `number`: less than the whole if it slices it."""
    names = [name for name, text in fused.items() if f" parameter({number})" in text]
    while names:
        uses = [
            (name, parts)
            for name, text in fused.items()
            if (parts := _PARTS.match(text)) and set(names) & set(_OPERAND.findall(parts[3]))
        ]
        if any(parts[2] not in _SLICES | {"bitcast"} for _, parts in uses):
            return whole
        slices = [parts for _, parts in uses if parts[2] in _SLICES]
        if slices:
            return sum(result_bytes(parts[1]) for parts in slices)
        names = [name for name, _ in uses]
    return whole
