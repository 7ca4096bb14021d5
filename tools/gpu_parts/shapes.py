"""Models of random weights, and how a function is timed."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdepth.model.apart import place_apart
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes

MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 32768,
    "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5, "rope_theta": 1e5, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip
TOY = MISTRAL_7B | {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What a part is given."""

    out: Path
    model: Path | None
    toy: bool
    until: float  # time.monotonic() at which it is stopped

    @property
    def config(self) -> ModelConfig:
        """The shapes of a 7B model."""
        return ModelConfig.from_hf(TOY if self.toy else MISTRAL_7B)

    @property
    def seconds_left(self) -> float:
        return self.until - time.monotonic()

    def measured(self, part: str, what: str) -> float | None:
        """A number that an earlier part has measured."""
        path = self.out / f"{part}.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else ():
            row = json.loads(line)
            if row["what"] == what:
                return row["value"]
        return None


def row(what: str, measured: str, value: float | None = None, target: str = "") -> dict:
    """A row of the table: in words, and its number for other parts and for JSON."""
    return {"what": what, "measured": measured, "value": value, "target": target}


def random_model(config: ModelConfig, dtype, seed: int = 0, apart: bool = False) -> Mistral:
    """A model of random weights, made on the device; norms are about 1.

    Its layers are stacked, as tuning has them, or apart, as loading places them on a GPU.
    """

    @jax.jit
    def make(key):
        arrays = {}
        for n, (name, shape) in enumerate(parameter_shapes(config).items()):
            noise = jax.random.normal(jax.random.fold_in(key, n), shape, jnp.bfloat16)
            is_norm = name.endswith("norm")
            scale = 0.1 if is_norm else 1 / np.sqrt(shape[-2])
            arrays[name] = (noise * scale + is_norm).astype(dtype)
        return arrays

    model = Mistral(config, make(jax.random.key(seed)), None)
    if apart:
        place_apart(model.layers, None)
    return model


def random_tokens(config: ModelConfig, prompts: int, length: int):
    """Token ids without padding, and lengths."""
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (prompts, length))
    return ids.astype(np.int32), np.full(prompts, length, np.int32)


def seconds_of(function: Callable[[], object], rounds: int = 3) -> float:
    """The median time of a function whose result is an array, or arrays, of a device."""
    jax.block_until_ready(function())  # compiles
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))
