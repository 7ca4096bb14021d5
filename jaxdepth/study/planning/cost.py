"""What a compiled program costs, counted from its text: loop bodies times their trip counts.

XLA's own `cost_analysis` counts the body of a loop once, which for a scan over layers is 1/L of the
truth. Here the optimised program is read: matrix products (`dot`), and the computations that
`while`, `fusion`, `call` and `conditional` bring in.
"""

import math
import re

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .+ \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_SHAPE = re.compile(r"^\w+\[([\d,]*)\]")
_DOT = re.compile(r"\bdot\(%?([\w.\-]+)[,)].*?lhs_contracting_dims=\{([\d,]*)\}")
_DOT_TYPED = re.compile(r"\bdot\(\w+\[([\d,]*)\].*?lhs_contracting_dims=\{([\d,]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_BELOW = re.compile(r"\bcompare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CONSTANT = re.compile(r"\bconstant\((\d+)\)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


def matmul_flops(program: str) -> int:
    """Floating-point operations of all matrix products that one run of a program does.

    Args:
        program: the text of an optimised program: `jax.jit(f).lower(...).compile().as_text()`.

    Raises:
        ValueError: a loop with matrix products has no known trip count, or a product is hidden in
            a library call.
    """
    computations, entry = split_program(program)
    totals: dict[str, int] = {}

    def total(name: str) -> int:
        if name not in totals:
            lines = computations[name]
            totals[name] = sum(_own(lines, i) + called(text) for i, text in lines.items())
        return totals[name]

    def called(line: str) -> int:
        found = 0
        for inner, trips in called_in(line, computations):
            if total(inner) and trips is None:
                raise ValueError(f"loop over {inner} has matrix products but no trip count")
            found += total(inner) * (trips or 0)
        return found

    return total(entry)


def called_in(line: str, computations: dict[str, dict[str, str]]) -> list[tuple[str, int | None]]:
    """The computations that an instruction runs, and how often; None if a loop does not say."""
    body = _BODY.search(line)
    if body:
        trips = _TRIPS.search(line)
        return [(body[1], int(trips[1]) if trips else _counted_to(line, computations))]
    names = _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        names += [name.strip().lstrip("%") for name in branches.split(",")]
    return [(name, 1) for name in names]


def _counted_to(line: str, computations: dict[str, dict[str, str]]) -> int | None:
    """The trips of a loop whose condition is that its counter, from 0, is below a constant.

    So a TPU's programs have the loops of `lax.scan`.
    """
    condition = _CONDITION.search(line)
    lines = computations.get(condition[1], {}) if condition else {}
    compared = [_BELOW.search(text) for text in lines.values()]
    limits = [lines.get(found[1], "") for found in compared if found]
    constants = [_CONSTANT.search(text) for text in limits]
    alone = len(lines) == 4  # the state, its counter, the constant and their comparison
    return int(constants[0][1]) if alone and constants and constants[0] else None


def _own(lines: dict[str, str], name: str) -> int:
    line = lines[name]
    if "custom-call(" in line and re.search(r"matmul|gemm|dot", line.split("metadata=")[0]):
        raise ValueError(f"matrix product hidden in a library call: {line[:100]}")
    dot = _DOT_TYPED.search(line)
    if dot:
        shape = _dims(dot[1])
    else:
        dot = _DOT.search(line)
        if not dot:
            return 0
        shape = _dims(_SHAPE.match(lines[dot[1]])[1])
    contracted = math.prod(shape[axis] for axis in _dims(dot[2]))
    return 2 * contracted * math.prod(_dims(_SHAPE.match(line)[1]))


def _dims(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def split_program(program: str) -> tuple[dict[str, dict[str, str]], str]:
    """Computation -> instruction -> its text after the equals sign, and the entry's name."""
    computations: dict[str, dict[str, str]] = {}
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
