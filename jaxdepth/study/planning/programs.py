"""The programs of a sweep and of tuning, compiled for shapes."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdepth.depth import decode as engine
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.layer_scan import Backward
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.model.attention import compiled_for
from jaxdepth.model.cache import CachesApart, LayerCache
from jaxdepth.model.sharding import state_shardings, whole_rows
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.study.first_token import first_token_at
from jaxdepth.study.planning.compiled import bytes_per_device, collective_bytes
from jaxdepth.study.planning.flops import matmul_flops
from jaxdepth.study.planning.roofline import Program
from jaxdepth.study.planning.shapes import Shapes
from jaxdepth.study.planning.traffic import weight_traffic
from jaxdepth.tune.loss import Targets, Weights
from jaxdepth.tune.train import Micro, State, make_optimizer, make_step, supervised

TUNING = "tuning step"
_INSTRUCTION = re.compile(r" = .*?[\]\})] ?([a-z][\w\-]*)\(")
# Instructions that name values, or move them to the chip's fast memory if they are small enough.
_UNCOUNTED = {"copy-start", "copy-done", "get-tuple-element", "tuple", "constant", "parameter"}


class Exhausted(Exception):
    """The compiler refuses a program because it does not fit into the chip's memory."""


def compilers(shapes: Shapes, prompts: int) -> dict[str, Callable[[], Program]]:
    """By name of each program, a function that compiles it, and may raise Exhausted.

    Args:
        shapes: what is planned.
        prompts: how many the sweep runs at once.
    """
    functions = {
        "first token, all exits": lambda: _first_token(shapes, prompts),
        "prefill": lambda: _prefill(shapes, prompts),
        "decode, all exits": lambda: _decode(shapes, prompts),
    }
    return functions | ({TUNING: lambda: tuning_step(shapes)} if shapes.settings.sequences else {})


def compile_all(shapes: Shapes, prompts: int) -> list[Program]:
    """Compile every program.

    Raises:
        Exhausted: one does not fit.
    """
    return [compile_one() for compile_one in compilers(shapes, prompts).values()]


def _compile(
    shapes: Shapes, name: str, jitted, *args, caches: int, trips: int, passes: int, **static
) -> Program:
    """Compile a function for shapes.

    Args:
        shapes: what is planned.
        name: of the program.
        jitted: the function, as it runs.
        args: its arguments, as shapes.
        caches: bytes of caches on one device.
        trips: of its loop over new tokens.
        passes: how often it reads all weights and caches.
        static: its static arguments.

    Raises:
        Exhausted: it does not fit.
    """
    with compiled_for("gpu" if shapes.platform == "cuda" else shapes.platform):
        traced = jitted.trace(*args, **static)
        lowered = traced.lower(lowering_platforms=(shapes.platform,))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise Exhausted(name) from None
    memory, text = compiled.memory_analysis(), compiled.as_text()
    counted = None if shapes.platform != "cuda" else weight_traffic(text, trips)
    weights = counted.moved if counted else passes * bytes_per_device(shapes.model)
    return Program(
        name=name,
        arguments=memory.argument_size_in_bytes,
        caches=caches,
        temporaries=memory.temp_size_in_bytes,
        flops=matmul_flops(traced.jaxpr, trips) / shapes.mesh.size,
        traffic=weights + passes * caches,
        collectives=collective_bytes(text, trips),
        instructions=sum(name not in _UNCOUNTED for name in _INSTRUCTION.findall(text)),
        chip=shapes.chip,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        weights=counted,
        text=text,
    )


def _batch(shapes: Shapes, prompts: int) -> tuple[Any, Any]:
    """Tokens (B, S) and lengths (B)."""
    length = shapes.settings.length
    return (
        shapes.array((prompts, length), jnp.int32, "BS"),
        shapes.array((prompts,), jnp.int32, "B"),
    )


def _first_token(shapes: Shapes, prompts: int) -> Program:
    exits = shapes.array((len(shapes.exits),), jnp.int32, "E")
    openers = shapes.array((shapes.config.vocab_size,), jnp.bool_, "-")
    args = (shapes.model, *_batch(shapes, prompts), exits, openers)
    return _compile(
        shapes, "first token, all exits", first_token_at, *args, caches=0, trips=1, passes=1
    )


def _prompt_cache(shapes: Shapes, prompts: int) -> engine.PromptCache | CachesApart:
    c, s = shapes.config, shapes.settings
    layers, shape = shapes.exits[-1], (prompts, c.num_key_value_heads, s.length, c.head_dim)
    if shapes.model.is_apart:
        return (LayerCache(*(shapes.array(shape, s.dtype, "BKSH"),) * 2),) * layers
    return engine.PromptCache(*(shapes.array((layers, *shape), s.dtype, "LBKSH"),) * 2)


def _prefill(shapes: Shapes, prompts: int) -> Program:
    exits = shapes.array((len(shapes.exits),), jnp.int32, "E")
    return _compile(
        shapes,
        "prefill",
        engine.prefill,
        shapes.model,
        *_batch(shapes, prompts),
        exits,
        depth=shapes.exits[-1],
        caches=bytes_per_device(_prompt_cache(shapes, prompts)),
        trips=1,
        passes=1,
    )


def _decode(shapes: Shapes, prompts: int) -> Program:
    c, s = shapes.config, shapes.settings
    exits, samples, new_tokens = shapes.exits, s.samples, s.new_tokens
    segments = plan_segments(exits)
    cache = _prompt_cache(shapes, prompts)
    lane_caches = [
        shapes.array(
            (
                segment.last - segment.first, segment.exits * samples, prompts,
                c.num_key_value_heads, new_tokens, c.head_dim,
            ),
            s.dtype,
            "LXBKTH",
        )
        for segment in segments
    ]  # fmt: skip
    X = len(exits) * samples
    keys = jax.eval_shape(lambda: lane_keys(range(prompts), range(X), [0]).reshape(X, prompts))
    args = (
        shapes.model,
        cache,
        shapes.array((X, prompts, c.hidden_size), s.dtype, "XBD"),
        _batch(shapes, prompts)[1],
        shapes.array((X,), jnp.int32, "X"),
        shapes.array(keys.shape, keys.dtype, "XB"),
        TokenSampler(Sampling(), shapes.array((1,), jnp.int32, "-")),
    )
    return _compile(
        shapes,
        "decode, all exits",
        engine.decode,
        *args,
        plan=segments,
        samples=samples,
        max_new_tokens=new_tokens,
        caches=bytes_per_device(cache) + 2 * bytes_per_device(lane_caches),
        trips=max(new_tokens - 1, 0),
        passes=max(new_tokens - 1, 0),
    )


def tuning_step(shapes: Shapes) -> Program:
    """Compile a step of tuning: LoRA of rank 8 on all matrices, at three exits and full depth.

    Raises:
        Exhausted: it does not fit.
    """
    s, depth = shapes.settings, shapes.config.num_hidden_layers
    B, S = whole_rows(s.sequences, shapes.mesh), s.length + s.new_tokens
    rows = s.sequences * s.new_tokens
    form = Form(layers=tuple(range(depth)), rank=8)
    optimizer = make_optimizer(1e-3, 10, 100, 0.0, 1.0)

    def initial(model) -> State:
        params = init_params(model, form, 0, jax.random.key(0))
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    state = jax.eval_shape(initial, shapes.stacked)
    shardings = state_shardings(state, shapes.config, shapes.mesh)
    state = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        state,
        shardings,
    )
    row_indices = [shapes.array((1, rows), jnp.int32, "--")] * 3
    targets = Targets(shapes.array((1, B, S), jnp.int32, "-BS"), *row_indices)
    full, weight = (
        shapes.array((1, *n, rows), jnp.float32, "-" * (2 + len(n))) for n in ((), (3,))
    )
    weights = Weights(full, shapes.array((1, 3), jnp.int32, "--"), weight, weight)
    micros = Micro(targets, weights, None)
    step = make_step(form, supervised(True, Backward(remat=True)), optimizer, shardings)
    # Three passes: forward, forward again for the gradient (remat), and backward.
    return _compile(
        shapes, TUNING, step, state, shapes.stacked, micros, caches=0, trips=1, passes=3
    )
