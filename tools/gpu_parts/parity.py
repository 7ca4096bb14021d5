"""Logits at every exit, and greedy tokens, against the same program on this machine's CPU.

The CPU's logits are those of Hugging Face (docs/parity.md), so that torch is not needed here.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import jaxdepth
from gpu_parts.shapes import TOY, Check, random_model, random_tokens, row
from jaxdepth.depth.generation import generate
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral

NEW_TOKENS = 8
VARIANTS = {
    "one key head for all query heads": {"num_key_value_heads": 1},
    "window of 16": {"sliding_window": 16},
    "tied head": {"tie_word_embeddings": True},
}


def measure(check: Check) -> Iterator[dict]:
    """Rows of tiny models, and of SmolLM2 where one is given."""
    cpu = jax.devices("cpu")[0]
    for name, change in VARIANTS.items():
        model = random_model(ModelConfig.from_hf(TOY | change), jnp.float32, apart=True)
        yield from compare(f"tiny, {name}", model, cpu, 1e-5)
    if check.model is None:
        yield row("SmolLM2", "not run: no MODEL is given")
        return
    model, _ = jaxdepth.load(check.model)
    yield from compare("SmolLM2", model, cpu, 1e-3)


def compare(name: str, model: Mistral, cpu: jax.Device, tolerance: float) -> Iterator[dict]:
    """Float32 and bfloat16 on the card, beside the CPU."""
    tokens, lengths = random_tokens(model.config, 3, 48)
    exits = np.arange(1, model.depth + 1, dtype=np.int32)
    every = jax.jit(jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0)))

    def logits(model: Mistral) -> np.ndarray:
        return np.asarray(every(model, tokens, lengths, exits), np.float32)

    def in_16_bits(model: Mistral) -> Mistral:
        return jax.tree.map(lambda array: array.astype(jnp.bfloat16), model)

    on_cpu = jax.device_put(model, cpu)
    with jax.default_device(cpu):
        expected = logits(on_cpu)
        expected_16 = logits(in_16_bits(on_cpu))
        expected_tokens = generate(on_cpu, tokens, lengths, exits, NEW_TOKENS).tokens
    worst = float(np.abs(logits(model) - expected).max())
    yield row(f"{name}: logits of {len(exits)} exits, float32", f"{worst:.1e}", worst,
              f"at most {tolerance:.0e}")  # fmt: skip
    found_16 = logits(in_16_bits(model))
    own = float(np.abs(expected_16 - expected).max())
    worst = float(np.abs(found_16 - expected).max())
    yield row(f"{name}: the same in bfloat16, against float32", f"{worst:.1e}", worst,
              f"as the CPU's bfloat16: {own:.1e}")  # fmt: skip
    found = generate(model, tokens, lengths, exits, NEW_TOKENS).tokens
    same = float((found == expected_tokens).mean())
    yield row(f"{name}: greedy tokens that are the CPU's, float32", f"{same:.1%}", same, "100%")
