"""What chips send each other in a compiled program, and what a function's products cost, counted.

Loops count with their trips, as in `depth.cost`. Collectives are read off the optimised program of
one chip; products off the traced function, before it is divided among chips, because a TPU's
program hides them in fused convolutions.
"""

import math
import re
from collections import Counter

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxdepth.study.planning.cost import called_in, split_program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(
    rf"^(.+?) ({'|'.join(KINDS)})(-start)?\((?:\w+\[[\d,]*\]\S* )?%?([\w.\-]+)"
)
_ARRAY = re.compile(r"\b([a-z]\w*?)(\d+)?\[([\d,]*)\]")
_BYTES = {"pred": 1}
# A TPU runs a collective beside products: every fusion of a chain names it again. Its
# reduce-scatter is a computation of this name, in which an all-reduce is cut.
_CHAINED, _CHAIN_STARTS = 'chain_id="', 'custom_call_target="AsyncCollectiveStart"'
_SCATTERS = "all-reduce-scatter"


def collective_bytes(program: str, trips: int | None = None) -> dict[str, int]:
    """Bytes of the arrays that one chip gathers, sums or passes on, by kind, over one run.

    Counted are whole arrays: what it gets from an all-gather or an all-reduce, and what it gives
    to a reduce-scatter, of which it gets a part.

    Args:
        program: text of an optimised program, from `.compile().as_text()`.
        trips: of loops that do not say how often they run: those that may end early.

    Raises:
        ValueError: there is such a loop with collectives in it, and no `trips`.
    """
    computations, entry = split_program(program)
    totals: dict[str, Counter] = {}

    def total(name: str) -> Counter:
        if name not in totals:
            found, lines = Counter(), computations[name]
            starts = any(_CHAIN_STARTS in text for text in lines.values())
            for text in lines.values():
                own = _COLLECTIVE.match(text)
                if own and (starts or _CHAINED not in text):
                    shapes, kind, started, operand = own.groups()
                    if kind == "reduce-scatter":
                        shapes, started = lines[operand].partition(" ")[0], None
                    kind = "reduce-scatter" if name.startswith(_SCATTERS) else kind
                    found[kind] += _size(shapes, started is not None)
                for inner, times in called_in(text, computations):
                    of_inner = total(inner)
                    if of_inner and times is None and trips is None:
                        raise ValueError(f"loop over {inner} has collectives but no trip count")
                    times = trips if times is None else times
                    for kind, size in of_inner.items():
                        found[kind] += times * size
            totals[name] = found
        return totals[name]

    return dict(total(entry))


def _size(shapes: str, started: bool) -> int:
    """Bytes of the result; a started one names its operands too, before its results."""
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * _BYTES.get(kind, int(bits or 8) // 8)
        for kind, bits, dims in _ARRAY.findall(shapes)
    ]
    return sum(sizes) if not started or len(sizes) < 2 else sum(sizes[len(sizes) // 2 :])


def product_flops(traced: ClosedJaxpr | Jaxpr, trips: int = 1) -> int:
    """Floating-point operations of all matrix products of a traced function, on all chips together.

    Args:
        traced: from `jax.jit(f).trace(...).jaxpr`.
        trips: of loops that may end early.
    """
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = math.prod(left[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        times = {"scan": equation.params.get("length"), "while": trips}
        times = times.get(equation.primitive.name, 1)
        inner = [
            product_flops(part, trips)
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(part, ClosedJaxpr | Jaxpr)
        ]
        total += times * (
            max(inner, default=0) if equation.primitive.name == "cond" else sum(inner)
        )
    return total


def held_bytes(tree) -> int:
    """Bytes of a tree of arrays, or of their shapes, on one chip of the mesh that holds them."""

    def held(array) -> int:
        shape = array.sharding.shard_shape(array.shape) if array.sharding else array.shape
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            return 8 * math.prod(shape)
        return np.dtype(array.dtype).itemsize * math.prod(shape)

    return sum(map(held, jax.tree.leaves(tree)))
