"""Count the floating-point operations of the matmuls of a traced function.

XLA's own `cost_analysis` counts the body of a loop once, which for a scan over L layers is 1/L of
the truth. Counted is the traced function, not the compiled program: the function is not yet
partitioned among devices, and a TPU's program hides matmuls in fused convolutions.
"""

import math

from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(traced: ClosedJaxpr | Jaxpr, trips: int = 1) -> int:
    """Floating-point operations of all matmuls of one run, on all devices together.

    Of the branches of a `cond` the most expensive counts.

    Args:
        traced: from `jax.jit(f).trace(...).jaxpr`.
        trips: how often a `while` loop runs; a `scan` has its own length.
    """
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    total = 0
    for equation in jaxpr.eqns:
        primitive = equation.primitive.name
        if primitive == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, result = _shape(equation.invars[0]), _shape(equation.outvars[0])
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * inner * math.prod(result)
        flops = [matmul_flops(function, trips) for function in _called(equation)]
        if primitive == "cond":
            total += max(flops, default=0)
        elif primitive == "scan":
            total += equation.params["length"] * sum(flops)
        elif primitive == "while":
            total += trips * sum(flops)
        else:
            total += sum(flops)
    return total


def _shape(variable) -> tuple[int, ...]:
    return variable.aval.shape


def _called(equation) -> list[ClosedJaxpr | Jaxpr]:
    """The functions that an equation calls."""
    return [
        part
        for value in equation.params.values()
        for part in (value if isinstance(value, tuple | list) else (value,))
        if isinstance(part, ClosedJaxpr | Jaxpr)
    ]
