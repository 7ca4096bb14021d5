"""Count the matmuls of a compiled program: what XLA made of a function, not what was traced.

`jaxdepth.study.planning.flops` counts the traced function; tests hold one against the other.
"""

import math
import re

from jaxdepth.study.planning.compiled import called_computations, split_program

_SHAPE = re.compile(r"^\w+\[([\d,]*)\]")
_DOT = re.compile(r"\bdot\(%?([\w.\-]+)[,)].*?lhs_contracting_dims=\{([\d,]*)\}")
_DOT_TYPED = re.compile(r"\bdot\(\w+\[([\d,]*)\].*?lhs_contracting_dims=\{([\d,]*)\}")


def compiled_matmul_flops(program: str) -> int:
    """Floating-point operations of all matmuls that one run of a program does.

    Args:
        program: the text of an optimised program: `jax.jit(f).lower(...).compile().as_text()`.

    Raises:
        ValueError: a loop with matmuls has no known trip count, or a matmul is a library call.
    """
    computations, entry = split_program(program)
    totals: dict[str, int] = {}

    def total(name: str) -> int:
        if name not in totals:
            instructions = computations[name]
            own = sum(_own_flops(instructions, text) for text in instructions.values())
            totals[name] = own + sum(map(called, instructions.values()))
        return totals[name]

    def called(text: str) -> int:
        flops = 0
        for inner, trips in called_computations(text, computations):
            if total(inner) and trips is None:
                raise ValueError(f"loop over {inner} has matrix products but no trip count")
            flops += total(inner) * (trips or 0)
        return flops

    return total(entry)


def _own_flops(instructions: dict[str, str], text: str) -> int:
    if "custom-call(" in text and re.search(r"matmul|gemm|dot", text.split("metadata=")[0]):
        raise ValueError(f"matrix product hidden in a library call: {text[:100]}")
    dot = _DOT_TYPED.search(text)
    if dot:
        shape = _dims(dot[1])
    else:
        dot = _DOT.search(text)
        if not dot:
            return 0
        shape = _dims(_SHAPE.match(instructions[dot[1]])[1])
    contracted = math.prod(shape[axis] for axis in _dims(dot[2]))
    return 2 * contracted * math.prod(_dims(_SHAPE.match(text)[1]))


def _dims(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]
