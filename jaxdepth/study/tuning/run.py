"""Tuning as a run: steps that survive being killed, a table of losses, and an adapter."""

import re
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh, reshard, state_shardings, to_host
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.protocol import Protocol, read_protocol
from jaxdepth.runtime import preemption
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.settings_file import flatten
from jaxdepth.study.loading import device_provenance
from jaxdepth.study.run_directory import Run
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.study.tuning.state import _kept, _sums
from jaxdepth.tune.data import KINDS, Batches, read_tasks, tasks_digest, writer
from jaxdepth.tune.recipe import Recipe
from jaxdepth.tune.train import (
    Losses,
    Micro,
    State,
    make_optimizer,
    make_step,
    preference,
    schedule,
    supervised,
)
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import Adapter, add_tokens, save_adapter
from jaxdepth.weights.load import load
from jaxdepth.weights.train_state import save_state

LOSS = "loss"
ADAPTER = "adapter.safetensors"
_STATE = "state"
_SCHEMA = pa.schema(
    [("step", pa.int32())]
    + [(name, pa.float32()) for name in Losses._fields]
    + [("learning_rate", pa.float32()), ("exits", pa.list_(pa.int32()))]
)
# Paths and devices: a fingerprint stands for them, and no number depends on them.
_UNRESOLVED = ("model", "out", "mesh", "profile")
_AT_LEAST_0 = ("early_weight", "layer_dropout", "alpha", "beta", "chosen_weight", "learning_rate")
_AT_LEAST_0 += ("weight_decay", "clip", "warmup", "exits_per_step")
_AT_LEAST_1 = ("answer_tokens", "steps", "accumulate", "save_every")


def tune(settings: Tune, bar: ProgressBar = silent) -> Run:
    """Trains, or goes on training, and writes the adapter.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    _check(settings)
    tasks = read_tasks(settings.data.harmful_prompts, settings.data.benign_answers)
    mix = {kind: getattr(settings.data, kind) for kind in KINDS}
    for kind, count in mix.items():
        if count and not tasks[kind]:
            raise InputError(f"{kind} = {count}, but there are no such prompts")
    manifest = checkpoint.read_manifest(settings.model)
    use_compilation_cache()
    mesh = chosen_mesh(settings.devices.mesh)
    base, tokenizer = load(settings.model, settings.dtype, mesh)
    if tokenizer is None:
        raise InputError(f"{settings.model} was converted without a tokenizer: prompts need one")
    depth = base.config.num_hidden_layers
    where = _where(settings, depth)
    protocol = (
        read_protocol(settings.supervision.protocol)
        if settings.supervision.method == "verdicts"
        else None
    )
    tokens = _new_tokens(protocol, tokenizer)
    form = Form(
        layers=tuple(e - 1 for e in parse_exits(settings.trained.layers, depth, "layer")),
        leaves=settings.trained.leaves,
        rank=settings.trained.rank if settings.trained.train == "lora" else None,
        alpha=settings.trained.alpha,
        first_new=add_tokens(tokenizer, tokens) if tokens else None,
    )
    resolved = {k: v for k, v in flatten(settings).items() if k not in _UNRESOLVED} | {
        "base_fingerprint": manifest["fingerprint"],
        "tasks_sha256": tasks_digest(tasks),
        "protocol": None if protocol is None else asdict(protocol),
        "dtype": str(base.embed[...].dtype),
    }
    provenance = {"model": str(settings.model), **device_provenance(base)}
    run = Run.open(settings.output.out, resolved, provenance)
    write = writer(PromptEncoder(tokenizer), tokenizer.eos_token_id, protocol)
    batches = Batches(tasks, mix, write, settings.data.answer_tokens, settings.output.seed)
    state = _train(run, settings, base, form, where, batches, len(tokens), bar)
    made = {"settings": run.record["settings"], "versions": _versions(run), "losses": _digest(run)}
    params = {name: to_host(array) for name, array in state.params.items()}
    adapter = Adapter(form, params, manifest["fingerprint"], tokens, made)
    stored = "bfloat16" if form.rank else resolved["dtype"]
    run.write_file(ADAPTER, lambda p: save_adapter(p, adapter, stored))
    return run


def _train(
    run: Run,
    s: Tune,
    base: Mistral,
    form: Form,
    where: Recipe,
    batches: Batches,
    new_tokens: int,
    bar: ProgressBar,
) -> State:
    o = s.optimisation
    optimizer = make_optimizer(o.learning_rate, o.warmup, o.steps, o.weight_decay, o.clip)
    if s.supervision.method == "dpo":
        loss_of = preference(s.supervision.beta, s.supervision.chosen_weight, o.remat)
    else:
        loss_of = supervised(where.distills, o.remat)
    params = init_params(base, form, new_tokens, jax.random.key(s.output.seed))
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    held = None if base.mesh is None else state_shardings(state, base.config, base.mesh)
    state = state if held is None else reshard(state, held)
    state = _kept(run.path / _STATE, state) or state
    step_fn = make_step(form, loss_of, optimizer, held)
    rate = schedule(o.learning_rate, o.warmup, o.steps)
    rows, at = [], int(state.step)
    with bar("tuning", "steps") as progress:
        progress(at, o.steps)
        while at < o.steps:
            exits = where.exits(s.output.seed, at)
            micros = _micros(s, where, batches, exits, at)
            state, losses = step_fn(state, base, micros)
            means = dict(zip(Losses._fields, map(float, losses), strict=True))
            if not np.isfinite(means["loss"]):
                raise InputError(
                    f"the loss of step {at} is {means['loss']}: lower learning_rate; the state of "
                    f"the last {o.save_every} steps is kept in {run.path / _STATE}"
                )
            rows.append({"step": at, **means, "learning_rate": float(rate(at)), "exits": exits})
            at += 1
            stop = preemption.stop_requested()
            if stop or at % o.save_every == 0 or at == o.steps:
                # The rows first: were the state there without them, they would never be made.
                run.write_part(LOSS, rows[0]["step"], _table(rows))
                save_state(run.path / _STATE, at, (state, _sums(state)))
                rows = []
            progress(at, o.steps)
            if stop and at < o.steps:
                raise preemption.Stopped
    if not run.finished(LOSS):
        run.finish_parts(LOSS)
    return state


def _micros(s: Tune, where: Recipe, batches: Batches, exits: list[int], step: int) -> Micro:
    """The batches of a step, stacked."""
    make = batches.preferred if s.supervision.method == "dpo" else batches.supervised
    made = [make(step * s.optimisation.accumulate + n) for n in range(s.optimisation.accumulate)]
    longest = max(b.targets.tokens_BS.shape[1] for b in made)
    micros = []
    for n, batch in enumerate(made):
        tokens_BS = batch.targets.tokens_BS
        tokens_BS = np.pad(tokens_BS, ((0, 0), (0, longest - tokens_BS.shape[1])))
        keep_LB = _keep(s, where.depth, len(tokens_BS), (s.output.seed, step, n, 3))
        targets = batch.targets._replace(tokens_BS=tokens_BS)
        micros.append(Micro(targets, where.weights(exits, batch), keep_LB))
    return jax.tree.map(lambda *arrays: np.stack(arrays), *micros)


def _keep(s: Tune, depth: int, sequences: int, seed: tuple[int, ...]) -> np.ndarray | None:
    """Which layers each sequence runs. Source of the rates: LayerSkip (arXiv:2404.16710), eq. 2."""
    if not s.supervision.layer_dropout:
        return None
    rate_L = s.supervision.layer_dropout * (2.0 ** (np.arange(depth) / max(depth - 1, 1)) - 1)
    return np.random.default_rng(seed).random((depth, sequences)) >= rate_L[:, None]


def _where(s: Tune, depth: int) -> Recipe:
    early = tuple(e for e in parse_exits(s.supervision.exits, depth) if e < depth)
    if "every" in (s.supervision.refusals_at, s.supervision.benign_at) and not early:
        raise InputError(f"exits {s.supervision.exits!r} names no exit below full depth ({depth})")
    return Recipe(
        depth=depth,
        early=early,
        refusals=s.supervision.refusals_at,
        benign=s.supervision.benign_at,
        target=s.supervision.benign_target,
        per_step=s.supervision.exits_per_step,
        early_weight=s.supervision.early_weight,
        deep_more=s.supervision.deep_more,
    )


def _new_tokens(protocol: Protocol | None, tokenizer) -> tuple[str, ...]:
    """The protocol's markers and verdicts that look like special tokens and are not there yet."""
    if protocol is None:
        return ()
    words = [protocol.open, protocol.close, *protocol.verdicts[0]]
    known = tokenizer.get_vocab()
    return tuple(w for w in words if re.fullmatch(r"<\|.+\|>", w) and w not in known)


def _table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, _SCHEMA)


def _versions(run: Run) -> dict[str, str]:
    named = ("jaxdepth", "jax", "jaxlib", "flax", "optax", "numpy")
    return {k: v for k, v in run.record["versions"].items() if k in named}


def _digest(run: Run) -> str:
    return run.record["tables"][LOSS]["sha256"]


def _check(s: Tune) -> None:
    values = flatten(s)
    minima = dict.fromkeys((*KINDS, *_AT_LEAST_0), 0) | dict.fromkeys(_AT_LEAST_1, 1)
    for name, minimum in minima.items():
        at_least(minimum, **{name: values[name]})
    if not any(values[kind] for kind in KINDS):
        raise InputError(f"an empty batch: give one of {', '.join(KINDS)} a number")
    if s.supervision.layer_dropout > 1:
        raise InputError(f"layer_dropout is {s.supervision.layer_dropout}, expected at most 1")
    if (
        s.supervision.method == "dpo"
        and s.supervision.benign_target == "distill"
        and s.supervision.benign_at == "every"
    ):
        raise InputError("method dpo compares texts: set benign_target to text")
