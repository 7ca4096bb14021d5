"""Which kernels decoding spends its time in: a profile of 8 prompts at all exits, 7B shapes."""

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gpu_parts.mistral_7b import BUDGET
from gpu_parts.shapes import Check, random_model, random_tokens, row
from jaxdepth.depth.generation import generate

SHOWN, NEW_TOKENS = 12, 9


def measure(check: Check) -> Iterator[dict]:
    """Rows of the kernels that take longest."""
    model = random_model(check.config, jnp.bfloat16, apart=True)
    tokens, lengths = random_tokens(model.config, 8, 16 if check.toy else 256)
    exits = np.arange(1, model.depth + 1, dtype=np.int32)

    def run():
        return generate(model, tokens, lengths, exits, NEW_TOKENS, memory_budget=BUDGET)

    run()  # compiles
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        file = next(Path(folder).rglob("*.xplane.pb"))
        times, counts = _events(jax.profiler.ProfileData.from_file(str(file)))
    total = sum(times.values())
    yield row("kernels started for a token", f"{sum(counts.values()) / NEW_TOKENS:.0f}",
              sum(counts.values()) / NEW_TOKENS)  # fmt: skip
    for name, time in times.most_common(SHOWN):
        share = time / total
        yield row(f"`{name[:60]}` ({counts[name]} times)", f"{share:.1%} of the time", share)


def _events(profile) -> tuple[collections.Counter, collections.Counter]:
    """Nanoseconds and calls of each kernel: of the card's streams, or of XLA's threads on a CPU."""
    times, counts = collections.Counter(), collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            on_card = plane.name.startswith("/device:GPU") and line.name.startswith("Stream")
            if on_card or "XLAEigen" in line.name:
                for event in line.events:
                    times[event.name] += event.duration_ns
                    counts[event.name] += 1
    return times, counts
