"""What a study needs on devices that are not there: its programs compiled ahead of time.

The very functions that run are compiled, with shapes in place of arrays, for a TPU topology, or
for as many virtual devices as there are GPUs. Memory and what chips send each other are read off
the compiled programs; times are what the chip's published figures allow (a roofline), so a lower
bound.
"""

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdepth.depth import decode as engine
from jaxdepth.depth.exits import parse_exits
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.depth.talk import Speak
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.model.sharding import (
    make_mesh,
    parameter_sharding,
    parse_mesh,
    rows_of,
    state_shardings,
    stream_sharding,
    whole_rows,
)
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.study.first_token import first_token_at
from jaxdepth.study.planning.chips import GPUS, TPUS, Chip, find_chip
from jaxdepth.study.planning.compiled import collective_bytes, held_bytes, product_flops
from jaxdepth.study.planning.settings import Plan
from jaxdepth.tune.loss import Targets, Weights
from jaxdepth.tune.train import Micro, State, make_optimizer, make_step, supervised

# What a chip's own runtime keeps, and what does not fit between buffers.
USABLE = 0.95
TUNING = "tuning step"
_INSTRUCTION = re.compile(r" = .*?[\]\})] ?([a-z][\w\-]*)\(")
# What names values and moves them into the chip's fast memory, which depends on their sizes.
_PLUMBING = {"copy-start", "copy-done", "get-tuple-element", "tuple", "constant", "parameter"}


@dataclass(frozen=True)
class Program:
    """One compiled program on one chip: bytes, operations, seconds."""

    name: str
    arguments: int
    caches: int  # of prompts and lanes, wherever they are
    temporaries: int
    flops: float
    traffic: int  # bytes read from the chip's memory: weights and caches, once a pass
    collectives: dict[str, int]
    instructions: int  # that compute or send: not more for more layers
    chip: Chip
    outputs: int = 0  # besides arguments that are given back changed

    @property
    def held(self) -> int:
        return self.arguments + self.temporaries + self.outputs

    @property
    def fits(self) -> bool:
        return self.held <= USABLE * self.chip.memory

    @property
    def times(self) -> dict[str, float]:
        """Seconds by what takes them; a sum over chips passes every link about twice."""
        sent = sum(size * (2 if k == "all-reduce" else 1) for k, size in self.collectives.items())
        return {
            "products": self.flops / self.chip.flops,
            "memory": self.traffic / self.chip.bandwidth,
            "links": sent / self.chip.links,
        }

    @property
    def seconds(self) -> float:
        return max(self.times.values())

    @property
    def bound(self) -> str:
        return max(self.times, key=self.times.get)


@dataclass(frozen=True)
class Planned:
    """What `jaxdepth plan` found."""

    programs: list[Program]
    largest: int  # prompts at once that fit; 0 if not even one per device does
    nearest: str | None  # the nearest setting that fits, where this one does not
    study_seconds: float
    refused: tuple[str, ...] = ()  # programs that the compiler refuses: they do not fit

    @property
    def fits(self) -> bool:
        return not self.refused and all(program.fits for program in self.programs)


@dataclass(frozen=True)
class Shapes:
    """A model and a batch that are not there, on a mesh."""

    settings: Plan
    config: ModelConfig
    mesh: Mesh
    chip: Chip
    platform: str

    @property
    def exits(self) -> list[int]:
        return parse_exits(self.settings.exits, self.config.num_hidden_layers)

    def array(self, shape, dtype, axes: str) -> jax.ShapeDtypeStruct:
        """An array that is no weight, held as the rules say; `-` is an axis of no name."""
        sharding = stream_sharding(tuple(shape), axes, self.mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    @cached_property
    def model(self) -> Mistral:
        arrays = {
            name: jax.ShapeDtypeStruct(
                shape,
                self.settings.dtype,
                sharding=parameter_sharding(name, self.config, self.mesh),
            )
            for name, shape in parameter_shapes(self.config).items()
        }
        return Mistral(self.config, arrays, self.mesh)

    def program(self, name: str, jitted, *args, caches: int, trips: int, reads: int, **how):
        """Compiles a function of these shapes.

        Args:
            name: what it is called.
            jitted: the function, as it is run.
            args: its arguments.
            caches: bytes of caches on a chip.
            trips: of its loop over new tokens.
            reads: how often it passes over all weights and caches.
            how: its static arguments.

        Raises:
            Exhausted: the compiler says that it does not fit.
        """
        traced = jitted.trace(*args, **how)
        lowered = traced.lower(lowering_platforms=(self.platform,))
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise Exhausted(name) from None
        memory, text = compiled.memory_analysis(), compiled.as_text()
        return Program(
            name,
            memory.argument_size_in_bytes,
            caches,
            memory.temp_size_in_bytes,
            product_flops(traced.jaxpr, trips) / self.mesh.size,
            reads * (held_bytes(self.model) + caches),
            collective_bytes(text, trips),
            sum(name not in _PLUMBING for name in _INSTRUCTION.findall(text)),
            self.chip,
            memory.output_size_in_bytes - memory.alias_size_in_bytes,
        )


class Exhausted(Exception):
    """A program that the compiler refuses because it does not fit."""


def makers(shapes: Shapes, prompts: int) -> dict[str, Callable[[], Program]]:
    """What compiles each program of a sweep of so many prompts at once, and of a tuning step."""
    made = {
        "first token, all exits": lambda: _first(shapes, prompts),
        "prefill": lambda: _prefill(shapes, prompts),
        "decode, all exits": lambda: _decode(shapes, prompts),
    }
    return made | ({TUNING: lambda: _tuning(shapes)} if shapes.settings.sequences else {})


def programs_of(shapes: Shapes, prompts: int) -> list[Program]:
    """All of them, compiled.

    Raises:
        Exhausted: one does not fit.
    """
    return [make() for make in makers(shapes, prompts).values()]


def _batch(shapes: Shapes, prompts: int):
    length = shapes.settings.length
    return (
        shapes.array((prompts, length), jnp.int32, "BS"),
        shapes.array((prompts,), jnp.int32, "B"),
    )


def _first(shapes: Shapes, prompts: int) -> Program:
    exits = shapes.array((len(shapes.exits),), jnp.int32, "E")
    openers = shapes.array((shapes.config.vocab_size,), jnp.bool_, "-")
    args = (shapes.model, *_batch(shapes, prompts), exits, openers)
    return shapes.program(
        "first token, all exits", first_token_at, *args, caches=0, trips=1, reads=1
    )


def _prompt_cache(shapes: Shapes, prompts: int) -> engine.PromptCache:
    c, s = shapes.config, shapes.settings
    shape = (shapes.exits[-1], prompts, c.num_key_value_heads, s.length, c.head_dim)
    return engine.PromptCache(*(shapes.array(shape, s.dtype, "LBKSH"),) * 2)


def _prefill(shapes: Shapes, prompts: int) -> Program:
    exits = shapes.array((len(shapes.exits),), jnp.int32, "E")
    args = (shapes.model, *_batch(shapes, prompts), exits)
    caches = held_bytes(_prompt_cache(shapes, prompts))
    return shapes.program(
        "prefill", engine.prefill, *args, depth=shapes.exits[-1], caches=caches, trips=1, reads=1
    )


def _decode(shapes: Shapes, prompts: int) -> Program:
    c, s = shapes.config, shapes.settings
    exits, samples, new = shapes.exits, s.samples, s.new_tokens
    segments = plan_segments(exits)
    cache = _prompt_cache(shapes, prompts)
    lanes = [
        shapes.array(
            (g.last - g.first, g.exits * samples, prompts, c.num_key_value_heads, new, c.head_dim),
            s.dtype,
            "LXBKTH",
        )
        for g in segments
    ]
    X = len(exits) * samples
    keys = jax.eval_shape(lambda: lane_keys(range(prompts), range(X), [0]).reshape(X, prompts))
    args = (
        shapes.model,
        cache,
        shapes.array((X, prompts, c.hidden_size), s.dtype, "XBD"),
        _batch(shapes, prompts)[1],
        shapes.array((X,), jnp.int32, "X"),
        shapes.array(keys.shape, keys.dtype, "XB"),
        Speak(Sampling(), shapes.array((1,), jnp.int32, "-")),
    )
    return shapes.program(
        "decode, all exits",
        engine.decode,
        *args,
        plan=segments,
        samples=samples,
        max_new_tokens=new,
        caches=held_bytes(cache) + 2 * held_bytes(lanes),
        trips=max(new - 1, 0),
        reads=max(new - 1, 0),
    )


def _tuning(shapes: Shapes) -> Program:
    """LoRA of rank 8 on all matrices, supervised at full depth and three exits."""
    s, depth = shapes.settings, shapes.config.num_hidden_layers
    B, S = whole_rows(s.sequences, shapes.mesh), s.length + s.new_tokens
    rows = s.sequences * s.new_tokens
    form = Form(layers=tuple(range(depth)), rank=8)
    optimizer = make_optimizer(1e-3, 10, 100, 0.0, 1.0)

    def begin(model) -> State:
        params = init_params(model, form, 0, jax.random.key(0))
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    state = jax.eval_shape(begin, shapes.model)
    held = state_shardings(state, shapes.config, shapes.mesh)
    state = jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state, held
    )
    of_rows = [shapes.array((1, rows), jnp.int32, "--")] * 3
    targets = Targets(shapes.array((1, B, S), jnp.int32, "-BS"), *of_rows)
    share = shapes.array((1, 4, rows), jnp.float32, "---")
    micros = Micro(targets, Weights(shapes.array((1, 4), jnp.int32, "--"), share, share), None)
    step = make_step(form, supervised(True, True), optimizer, held)
    args = (state, shapes.model, micros)
    # Forward, again for the gradient (remat), and backward.
    return shapes.program(TUNING, step, *args, caches=0, trips=1, reads=3)


def largest_batch(shapes: Shapes, known: list[Program], prompts: int) -> int:
    """The most prompts at once whose sweep fits: memory is affine in them, one more compile checks.

    Args:
        shapes: what is planned.
        known: the programs for so many `prompts`, as far as they compile.
        prompts: see `known`.
    """
    unit, room = rows_of(shapes.mesh), USABLE * shapes.chip.memory

    def held(count: int) -> list[int] | None:
        sweep = [make for name, make in makers(shapes, count).items() if name != TUNING]
        try:
            return [make().held for make in sweep]
        except Exhausted:
            return None

    at = held(unit)
    if at is None or max(at) > room:
        return 0
    other, there = prompts, [p.held for p in known if p.name != TUNING]
    if len(there) < len(at) or other == unit:
        other, there = 2 * unit, held(2 * unit)
    if there is None:
        return unit

    def on_line(other: int, there: list[int]) -> int:
        both = zip(at, there, strict=True)
        fitting = (unit + (room - a) * (other - unit) / max(b - a, 1) for a, b in both)
        return int(min(fitting)) // unit * unit

    best, refused, guess = unit, None, on_line(other, there)
    while guess > best:
        found = held(guess)
        if found is not None and max(found) > room:
            guess = min(on_line(guess, found), guess - unit)  # small ones may lie beside the line
            continue
        if found is None:
            refused = guess
        else:
            best = guess
        if refused is None or refused - best <= max(unit, refused // 20):
            break
        guess = (best + refused) // 2 // unit * unit
    return best


def no_accelerator(settings: Plan) -> None:
    """Makes the process plan on its CPU; to be called before devices are touched."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no slice of ours answers
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it only compiles
    with contextlib.suppress(RuntimeError):  # devices were touched: they serve if there are enough
        jax.config.update("jax_platforms", "cpu")
        if settings.gpus is not None:
            jax.config.update("jax_num_cpu_devices", settings.gpus)


def plan(settings: Plan) -> Planned:
    """Compiles all programs and says what they need.

    Raises:
        InputError: something in the settings or the model's config is wrong, or nothing here
            compiles for that topology.
    """
    shapes = shapes_of(settings)
    prompts = whole_rows(settings.prompts, shapes.mesh)
    programs, refused = [], []
    for name, make in makers(shapes, prompts).items():
        try:
            programs.append(make())
        except Exhausted:
            refused.append(name)
    largest = largest_batch(shapes, programs, prompts)
    batches = -(-settings.study_prompts // prompts)
    seconds = batches * sum(p.seconds for p in programs if p.name != TUNING)
    found = Planned(programs, largest, None, seconds, tuple(refused))
    return found if found.fits else replace(found, nearest=_nearest(shapes, found))


def _nearest(shapes: Shapes, found: Planned) -> str | None:
    """Fewer prompts; or where that does not help, more devices for each copy of the model."""
    tunes = TUNING not in found.refused and all(p.fits for p in found.programs if p.name == TUNING)
    if found.largest and tunes:
        return f"--prompts {found.largest}"
    s = shapes.settings
    for axis in ("model", "fsdp"):
        sizes = parse_mesh(s.mesh)
        while sizes["data"] % 2 == 0:
            sizes = sizes | {"data": sizes["data"] // 2, axis: sizes[axis] * 2}
            text = ",".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
            try:
                other = replace(shapes, settings=replace(s, mesh=text), mesh=_mesh(s, text)[0])
                fits = s.sequences == 0 or _tuning(other).fits
                fitting = largest_batch(other, [], 0) if fits else 0
            except InputError:  # heads or a width that so many devices do not divide
                break
            except Exhausted:
                continue
            if fitting:
                return f"--mesh {text} --prompts {min(fitting, whole_rows(s.prompts, other.mesh))}"
    return None


def shapes_of(s: Plan) -> Shapes:
    """The model, the mesh and the chip that the settings name."""
    at_least(1, prompts=s.prompts, length=s.length, new_tokens=s.new_tokens, samples=s.samples)
    at_least(1, study_prompts=s.study_prompts)
    at_least(0, sequences=s.sequences)
    if (s.topology is None) == (s.gpus is None):
        raise InputError("name what to plan for: --topology v5e:4x4, or --gpus 8 --gpu H100")
    path = s.model / "config.json" if s.model.is_dir() else s.model
    config, _ = read_config(Path(path))
    mesh, chip, platform = _mesh(s, s.mesh)
    for name in parameter_shapes(config):
        parameter_sharding(name, config, mesh)
    return Shapes(s, config, mesh, chip, platform)


def _mesh(s: Plan, text: str) -> tuple[Mesh, Chip, str]:
    if s.gpus is not None:
        chip = find_chip(s.gpu, GPUS)
        if s.gpu_memory is not None:
            chip = replace(chip, memory=s.gpu_memory * 1e9)
        if jax.device_count() < s.gpus:
            raise InputError(
                f"{s.gpus} GPUs are planned on as many virtual devices, this process has begun "
                f"with {jax.device_count()}: set JAX_NUM_CPU_DEVICES={s.gpus}"
            )
        return _whole(text, jax.devices()[: s.gpus]), chip, "cpu"
    chip = find_chip(s.topology.partition(":")[0], TPUS)
    if find_spec("libtpu") is None:
        raise InputError("programs for TPUs need their compiler: pip install 'jaxdepth[tpu]'")
    from jax.experimental import topologies

    try:
        named = {"platform": "tpu", "topology_name": s.topology}
        devices = topologies.get_topology_desc(**named).devices
    except Exception as error:  # jaxlib raises several kinds
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"no programs for {s.topology} can be compiled: {reason}") from None
    return _whole(text, devices), chip, "tpu"


def _whole(text: str, devices) -> Mesh:
    mesh = make_mesh(text, devices)
    if mesh.size != len(devices):
        raise InputError(f"mesh {text} is of {mesh.size} devices, planned are {len(devices)}")
    return mesh
