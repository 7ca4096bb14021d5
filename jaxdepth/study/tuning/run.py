"""Tuning as a run: settings, training that resumes where it was stopped, and an adapter."""

import re
from dataclasses import asdict

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.sharding import chosen_mesh, to_host
from jaxdepth.model.tuned import Form
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.protocol import Protocol, read_protocol
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.settings_file import flatten
from jaxdepth.study.loading import device_provenance
from jaxdepth.study.run_directory import Run
from jaxdepth.study.tuning.settings import Supervision, Trained, TrainingData, Tune
from jaxdepth.study.tuning.tables import LOSS
from jaxdepth.study.tuning.training import Training, train
from jaxdepth.tune.data import KINDS, Batches, read_tasks, tasks_digest, writer
from jaxdepth.tune.recipe import Recipe
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import Adapter, add_tokens, save_adapter
from jaxdepth.weights.load import load

ADAPTER = "adapter.safetensors"
# Paths and devices: a fingerprint stands for them, and no number depends on them.
_UNRESOLVED = ("model", "out", "mesh", "profile")
_AT_LEAST_0: tuple[str, ...] = (
    "early_weight",
    "layer_dropout",
    "alpha",
    "beta",
    "chosen_weight",
    "learning_rate",
)
_AT_LEAST_0 += ("weight_decay", "clip", "warmup", "exits_per_step")
_AT_LEAST_1 = ("answer_tokens", "steps", "accumulate", "save_every")
# Versions that are recorded in an adapter.
_RECORDED = ("jaxdepth", "jax", "jaxlib", "flax", "optax", "numpy")


def tune(settings: Tune, bar: ProgressBar = silent) -> Run:
    """Trains, or resumes training, and writes the adapter.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    _check(settings)
    tasks, mix = _read_tasks(settings.data)
    fingerprint = checkpoint.read_manifest(settings.model)["fingerprint"]
    use_compilation_cache()
    base, tokenizer = load(settings.model, settings.dtype, chosen_mesh(settings.devices.mesh))
    if tokenizer is None:
        raise InputError(f"{settings.model} was converted without a tokenizer: prompts need one")
    depth = base.config.num_hidden_layers
    recipe = _recipe(settings.supervision, depth)
    decides = settings.supervision.method == "verdicts"
    protocol = read_protocol(settings.supervision.protocol) if decides else None
    tokens = _new_tokens(protocol, tokenizer)
    form = _form(settings.trained, depth, add_tokens(tokenizer, tokens) if tokens else None)
    dtype = str(base.embed[...].dtype)
    resolved = {k: v for k, v in flatten(settings).items() if k not in _UNRESOLVED} | {
        "base_fingerprint": fingerprint,
        "tasks_sha256": tasks_digest(tasks),
        "protocol": None if protocol is None else asdict(protocol),
        "dtype": dtype,
    }
    provenance = {"model": str(settings.model), **device_provenance(base)}
    run = Run.open(settings.output.out, resolved, provenance)
    write = writer(PromptEncoder(tokenizer), tokenizer.eos_token_id, protocol)
    batches = Batches(tasks, mix, write, settings.data.answer_tokens, settings.output.seed)
    state = train(run, Training(settings, base, form, recipe, batches, len(tokens)), bar)
    params = {name: to_host(array) for name, array in state.params.items()}
    adapter = Adapter(form, params, fingerprint, tokens, _adapter_provenance(run))
    stored_dtype = "bfloat16" if form.rank else dtype
    run.write_file(ADAPTER, lambda p: save_adapter(p, adapter, stored_dtype))
    return run


def _check(settings: Tune) -> None:
    values, supervision = flatten(settings), settings.supervision
    minima = dict.fromkeys((*KINDS, *_AT_LEAST_0), 0) | dict.fromkeys(_AT_LEAST_1, 1)
    for name, minimum in minima.items():
        at_least(minimum, **{name: values[name]})
    if not any(values[kind] for kind in KINDS):
        raise InputError(f"an empty batch: give one of {', '.join(KINDS)} a number")
    if supervision.layer_dropout > 1:
        raise InputError(f"layer_dropout is {supervision.layer_dropout}, expected at most 1")
    if (
        supervision.method == "dpo"
        and supervision.benign_target == "distill"
        and supervision.benign_at == "every"
    ):
        raise InputError("method dpo compares texts: set benign_target to text")


def _read_tasks(data: TrainingData) -> tuple[dict, dict[str, int]]:
    """The tasks to learn from by kind, and how many of each kind a batch has."""
    tasks = read_tasks(data.harmful_prompts, data.benign_answers)
    mix = {kind: getattr(data, kind) for kind in KINDS}
    for kind, count in mix.items():
        if count and not tasks[kind]:
            raise InputError(f"{kind} = {count}, but there are no such prompts")
    return tasks, mix


def _recipe(s: Supervision, depth: int) -> Recipe:
    early = tuple(e for e in parse_exits(s.exits, depth) if e < depth)
    if "every" in (s.refusals_at, s.benign_at) and not early:
        raise InputError(f"exits {s.exits!r} names no exit below full depth ({depth})")
    return Recipe(
        depth=depth,
        early=early,
        refusals=s.refusals_at,
        benign=s.benign_at,
        target=s.benign_target,
        per_step=s.exits_per_step,
        early_weight=s.early_weight,
        deep_more=s.deep_more,
    )


def _form(trained: Trained, depth: int, first_new: int | None) -> Form:
    return Form(
        layers=tuple(layer - 1 for layer in parse_exits(trained.layers, depth, "layer")),
        leaves=trained.leaves,
        rank=trained.rank if trained.train == "lora" else None,
        alpha=trained.alpha,
        first_new=first_new,
    )


def _new_tokens(protocol: Protocol | None, tokenizer) -> tuple[str, ...]:
    """The protocol's markers and verdicts that look like special tokens and are not there yet."""
    if protocol is None:
        return ()
    words = [protocol.open, protocol.close, *protocol.verdicts[0]]
    vocabulary = tokenizer.get_vocab()
    return tuple(w for w in words if re.fullmatch(r"<\|.+\|>", w) and w not in vocabulary)


def _adapter_provenance(run: Run) -> dict:
    """How an adapter was made: settings, versions, and the digest of the table of losses."""
    return {
        "settings": run.record["settings"],
        "versions": {k: v for k, v in run.record["versions"].items() if k in _RECORDED},
        "losses": run.record["tables"][LOSS.name]["sha256"],
    }
