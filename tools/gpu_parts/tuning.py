"""Steps a second of tuning: LoRA of rank 8, loss at full depth and at three exits."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gpu_parts.shapes import SMOLLM2, TOY, Check, random_model, random_tokens, row, seconds_of
from jaxdepth.depth.layer_scan import Backward
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.tune.loss import Targets, Weights
from jaxdepth.tune.train import Micro, State, make_optimizer, make_step, supervised


def measure(check: Check) -> Iterator[dict]:
    """Rows at the shapes of SmolLM2 and of a 7B model."""
    small = ModelConfig.from_hf(TOY if check.toy else SMOLLM2)
    length = 32 if check.toy else 128
    yield _row("SmolLM2's shapes, float32", small, jnp.float32, 8, length)
    if check.seconds_left > 30 or check.toy:
        yield _row("7B shapes, bfloat16", check.config, jnp.bfloat16, 8, length)


def _row(name: str, config: ModelConfig, dtype, sequences: int, length: int) -> dict:
    model, depth = random_model(config, dtype), config.num_hidden_layers
    form = Form(layers=tuple(range(depth)), rank=8)
    optimizer = make_optimizer(1e-3, 10, 100, 0.0, 1.0)
    step = make_step(form, supervised(True, Backward(remat=True)), optimizer)
    params = init_params(model, form, 0, jax.random.key(0))
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    tokens, _ = random_tokens(config, sequences, length)
    places = np.arange(length // 2, length - 1, dtype=np.int32)  # the second half is the answer
    sequence = np.repeat(np.arange(sequences, dtype=np.int32), len(places))
    place = np.tile(places, sequences)
    rows = len(place)
    exits = np.linspace(depth / 4, depth - 1, 3).astype(np.int32)
    each = np.full((3, rows), 0.5 / rows, np.float32)
    targets = Targets(tokens, sequence, place, tokens[sequence, place + 1])
    weights = Weights(np.full(rows, 1 / rows, np.float32), exits, each, each)
    micro = jax.tree.map(lambda array: np.asarray(array)[None], Micro(targets, weights, None))
    # A step uses up its state, so that each begins with a copy.
    seconds = seconds_of(lambda: step(jax.tree.map(jnp.copy, state), model, micro))
    return row(f"{name}: {sequences} sequences of {length}", f"{1 / seconds:.3g} steps a second",
               1 / seconds)  # fmt: skip
