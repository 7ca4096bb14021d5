"""Read a compiled program: its computations, and what its devices send each other.

The text of XLA's optimised program is parsed. The body of a loop counts as often as it runs.
"""

import math
import re
from collections import Counter
from typing import Any

import jax
import numpy as np

Computations = dict[str, dict[str, str]]  # computation -> instruction -> its text after "="

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .+ \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_LESS_THAN = re.compile(r"\bcompare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CONSTANT = re.compile(r"\bconstant\((\d+)\)")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(
    rf"^(.+?) ({'|'.join(KINDS)})(-start)?\((?:\w+\[[\d,]*\]\S* )?%?([\w.\-]+)"
)
_ARRAY = re.compile(r"\b([a-z]\w*?)(\d+)?\[([\d,]*)\]")
_ITEMSIZE = {"pred": 1}  # of types whose names do not end in their bits
# A TPU overlaps a collective with matmuls: every fusion of a chain names it again, and only the one
# that starts the chain counts. Its reduce-scatter is a computation of this name, in which an
# all-reduce is sliced.
_CHAINED, _CHAIN_STARTS = 'chain_id="', 'custom_call_target="AsyncCollectiveStart"'
_REDUCE_SCATTER = "all-reduce-scatter"


def split_program(program: str) -> tuple[Computations, str]:
    """The computations of a program, and the name of its entry.

    Args:
        program: the text of an optimised program: `jax.jit(f).lower(...).compile().as_text()`.

    Raises:
        ValueError: it has no entry.
    """
    computations: Computations = {}
    entry, current = None, None
    for line in program.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = computations.setdefault(start[1], {})
            entry = start[1] if line.startswith("ENTRY") else entry
        elif current is not None:
            instruction = _INSTRUCTION.match(line)
            if instruction:
                current[instruction[1]] = instruction[2]
    if entry is None:
        raise ValueError("the program has no ENTRY computation: is this an optimised HLO text?")
    return computations, entry


def called_computations(text: str, computations: Computations) -> list[tuple[str, int | None]]:
    """The computations that an instruction runs, and how often; None if a loop does not say."""
    body = _BODY.search(text)
    if body:
        trips = _TRIPS.search(text)
        return [(body[1], int(trips[1]) if trips else _trips_of_condition(text, computations))]
    names = _CALLED.findall(text)
    for branches in _BRANCHES.findall(text):
        names += [name.strip().lstrip("%") for name in branches.split(",")]
    return [(name, 1) for name in names]


def _trips_of_condition(text: str, computations: Computations) -> int | None:
    """The trips of a loop that runs while its counter, from 0, is below a constant.

    TPU programs have the loops of `lax.scan` in this form.
    """
    condition = _CONDITION.search(text)
    instructions = computations.get(condition[1], {}) if condition else {}
    comparisons = [_LESS_THAN.search(line) for line in instructions.values()]
    limits = [instructions.get(match[1], "") for match in comparisons if match]
    constants = [_CONSTANT.search(limit) for limit in limits]
    # Nothing but the state, its counter, the constant and their comparison.
    is_plain = len(instructions) == 4
    return int(constants[0][1]) if is_plain and constants and constants[0] else None


def collective_bytes(program: str, trips: int | None = None) -> dict[str, int]:
    """Bytes of the arrays that one device exchanges in one run, by the kind of collective.

    Whole arrays count: what a device receives from an all-gather or an all-reduce, and what it
    gives to a reduce-scatter, of which it receives a part.

    Args:
        program: the text of an optimised program.
        trips: of loops that may end early and therefore do not say how often they run.

    Raises:
        ValueError: there is such a loop with collectives in it, and no `trips`.
    """
    computations, entry = split_program(program)
    totals: dict[str, Counter[str]] = {}

    def total(name: str) -> Counter[str]:
        if name not in totals:
            totals[name] = _own_bytes(name, computations[name])
            for text in computations[name].values():
                for inner, times in called_computations(text, computations):
                    inner_bytes = total(inner)
                    times = trips if times is None else times
                    for kind, size in inner_bytes.items():
                        if times is None:
                            raise ValueError(f"loop over {inner} has collectives but no trip count")
                        totals[name][kind] += times * size
        return totals[name]

    return dict(total(entry))


def _own_bytes(name: str, instructions: dict[str, str]) -> Counter[str]:
    """Bytes of the collectives of one computation, without those that it calls."""
    counted: Counter[str] = Counter()
    starts_chain = any(_CHAIN_STARTS in text for text in instructions.values())
    for text in instructions.values():
        collective = _COLLECTIVE.match(text)
        if collective and (starts_chain or _CHAINED not in text):
            shapes, kind, started, operand = collective.groups()
            if kind == "reduce-scatter":
                shapes, started = instructions[operand].partition(" ")[0], None
            kind = "reduce-scatter" if name.startswith(_REDUCE_SCATTER) else kind
            counted[kind] += result_bytes(shapes, started is not None)
    return counted


def result_bytes(shapes: str, started: bool = False) -> int:
    """Bytes of an instruction's results; what is started lists its operands too, before them."""
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * _ITEMSIZE.get(kind, int(bits or 8) // 8)
        for kind, bits, dims in _ARRAY.findall(shapes)
    ]
    return sum(sizes) if not started or len(sizes) < 2 else sum(sizes[len(sizes) // 2 :])


def bytes_per_device(tree: Any) -> int:
    """Bytes of a pytree of arrays, or of their shapes, on one device of their shardings."""

    def nbytes(array) -> int:
        shape = array.sharding.shard_shape(array.shape) if array.sharding else array.shape
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            return 8 * math.prod(shape)
        return np.dtype(array.dtype).itemsize * math.prod(shape)

    return sum(map(nbytes, jax.tree.leaves(tree)))
