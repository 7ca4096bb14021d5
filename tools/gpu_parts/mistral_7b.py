"""Shapes of Mistral-7B in bfloat16: shares of the card's ceilings, and all exits against one."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gpu_parts.ceilings import COPY, MATRIX
from gpu_parts.shapes import Check, random_model, random_tokens, row, seconds_of
from jaxdepth.depth.decode import prefill
from jaxdepth.depth.generation import generate
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.study.planning.flops import matmul_flops

ALL_EXITS = "{} x all exits, s"
BUDGET = 40 * 10**9  # bytes of caches and logits
LENGTH, BATCHES, STUDY = 256, (1, 8, 32), 200


def measure(check: Check) -> Iterator[dict]:
    """Prefill, then decoding of 1, 8 and 32 prompts, then of 200."""
    model = random_model(check.config, jnp.bfloat16, apart=True)
    depth, new_tokens = model.depth, 4 if check.toy else 64
    length = 16 if check.toy else LENGTH
    exits = np.arange(1, depth + 1, dtype=np.int32)
    matrix, copy = check.measured("ceilings", MATRIX), check.measured("ceilings", COPY)
    if matrix is None or copy is None:
        yield row("shares", "not run: the part `ceilings` has not ended")
        return
    yield from _prefill(check, model, exits, matrix)
    weights = sum(array.nbytes for array in jax.tree.leaves(model))
    weights -= model.embed[...].nbytes  # of which a few rows are read

    def run(prompts: int, exits):
        tokens, lengths = random_tokens(model.config, prompts, length)
        return generate(model, tokens, lengths, exits, new_tokens, memory_budget=BUDGET)

    def seconds(prompts: int, exits) -> float:
        return seconds_of(lambda: run(prompts, exits), rounds=3 if prompts < STUDY else 1)

    times = {}
    for prompts in BATCHES:
        every = times[prompts] = seconds(prompts, exits)
        yield row(ALL_EXITS.format(prompts), f"{every:.3g}", every)
        read = weights * (new_tokens - 1) / copy
        flops = _flops(model, prompts, length, new_tokens, exits) / matrix
        bound, by = max((read, "weights read"), (flops, "matrix products"))
        yield row(
            f"{prompts} x all exits: share of what bounds it ({by})",
            f"{bound / every:.0%}",
            bound / every,
            "at least 70%" if prompts == 1 else "",
        )
        if prompts == 1:
            yield from _against_one(1, every, seconds(1, [depth]))
    every = seconds(STUDY, exits)
    yield row(f"{STUDY} prompts x {new_tokens} tokens x {depth} exits, s", f"{every:.3g}",
              every, "at most 15")  # fmt: skip
    for prompts in BATCHES[1:]:
        yield from _against_one(prompts, times[prompts], seconds(prompts, [depth]))


def _against_one(prompts: int, every: float, one: float) -> Iterator[dict]:
    """All exits against one run at full depth."""
    yield row(f"{prompts} x full depth, s", f"{one:.3g}", one)
    target = "at most 1.15" if prompts == 1 else ""
    yield row(f"{prompts} x all exits / one run", f"{every / one:.2f}", every / one, target)


def _prefill(check: Check, model: Mistral, exits, matrix: float) -> Iterator[dict]:
    """The share of the matrix rate that prefill reaches."""
    prompts, length = (2, 32) if check.toy else (8, 512)
    tokens, lengths = random_tokens(model.config, prompts, length)
    args = model, jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(exits)
    flops = matmul_flops(prefill.trace(*args, depth=model.depth).jaxpr)
    rate = flops / seconds_of(lambda: prefill(*args, depth=model.depth))
    yield row(f"prefill of {prompts} x {length}: share of the matrix rate", f"{rate / matrix:.0%}",
              rate / matrix, "at least 70%")  # fmt: skip


def _flops(model: Mistral, prompts: int, length: int, new_tokens: int, exits) -> float:
    """Of the matrix products of all exits: two for each weight that a lane passes."""
    c = model.config
    layer = sum(
        int(np.prod(shape[1:])) for shape in parameter_shapes(c).values() if len(shape) == 3
    )
    head = c.vocab_size * c.hidden_size
    steps = prompts * (new_tokens - 1) * sum(int(e) * layer + head for e in exits)
    return 2 * (steps + prompts * length * c.num_hidden_layers * layer)
