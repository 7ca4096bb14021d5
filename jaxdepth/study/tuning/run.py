"""Tuning as a run: settings, training that resumes where it was stopped, and an adapter."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, listed
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh, to_host
from jaxdepth.model.tuned import Form, Params
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.ranges import check_ranges
from jaxdepth.refusal.openers import resolve_openers
from jaxdepth.refusal.outcome import Outcome, classify_texts
from jaxdepth.refusal.protocol import Protocol, read_protocol
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.settings_file import flatten
from jaxdepth.study.first_token import opener_mask
from jaxdepth.study.loading import device_provenance, prompt_settings, run_date
from jaxdepth.study.run_directory import Run
from jaxdepth.study.tuning.settings import Supervision, TrainingData, Tune
from jaxdepth.study.tuning.tables import LOSS
from jaxdepth.study.tuning.training import Training, train
from jaxdepth.tune.batches import Batches, writer
from jaxdepth.tune.benign import answered
from jaxdepth.tune.loss import Contrast
from jaxdepth.tune.recipe import Recipe
from jaxdepth.tune.tasks import KINDS, Task, read_tasks, tasks_digest
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import (
    Adapter,
    adapter_digest,
    add_tokens,
    brings_tokenizer,
    check_base,
    find_adapter,
    read_adapter,
    save_adapter,
)
from jaxdepth.weights.huggingface.adapter_tokenizer import load_adapted_tokenizer
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_difference
from jaxdepth.weights.load import load

ADAPTER = "adapter.safetensors"
# Paths and devices: fingerprints and digests stand for them, and no number depends on them.
_UNRESOLVED: tuple[str, ...] = ("model", "out", "mesh", "profile", "date")
_SOURCES = ("harmful_prompts", "columns", "benign_answers")
_UNRESOLVED += _SOURCES
# Versions that are recorded in an adapter.
_RECORDED = ("jaxdepth", "jax", "jaxlib", "flax", "optax", "numpy")


@one_at_a_time(lambda settings: settings.output.out)
def tune(settings: Tune, bar: ProgressBar = silent) -> Run:
    """Trains, or resumes training, and writes the adapter.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    _check(settings)
    decides = settings.supervision.method == "verdicts"
    tasks, mix = _read_tasks(settings.data, decides)
    fingerprint = checkpoint.read_manifest(settings.model)["fingerprint"]
    use_compilation_cache()
    mesh = chosen_mesh(settings.devices.mesh)
    base, tokenizer = load(settings.model, settings.dtype, mesh, apart=False)
    if tokenizer is None:
        raise InputError(f"{settings.model} was converted without a tokenizer: prompts need one")
    depth = base.config.num_hidden_layers
    recipe = _recipe(settings.supervision, depth, settings.trained.train != "lens")
    protocol = read_protocol(settings.supervision.protocol) if decides else None
    if protocol and protocol.verdict_reads == "thought" and not _packs(settings, base):
        raise InputError(
            "verdict_reads is thought: train on one device (no mesh), with layer_dropout 0"
        )
    tokens = _new_tokens(protocol, tokenizer)
    form = _form(settings, recipe, add_tokens(tokenizer, tokens) if tokens else None)
    start = _start(settings.trained.start, form, base, fingerprint)
    _check_start_tokenizer(settings.model, settings.trained.start, base.config.vocab_size)
    dtype = str(base.embed[...].dtype)
    date = run_date(settings.data.date, settings.output.out)
    encoder_of = functools.cache(functools.partial(PromptEncoder, tokenizer, date=date))
    resolved = {k: v for k, v in flatten(settings).items() if k not in _UNRESOLVED} | {
        "base_fingerprint": fingerprint,
        "tasks_sha256": tasks_digest(tasks, mix, thoughts=decides),
        "start": settings.trained.start and adapter_digest(settings.trained.start),
        "protocol": protocol and protocol.record(),
        "dtype": dtype,
        **prompt_settings(tokenizer, encoder_of(None)),
    }
    provenance = {
        "model": str(settings.model),
        "harmful_prompts": list(settings.data.harmful_prompts),
        "columns": list(settings.data.columns),
        "benign_answers": settings.data.benign_answers,
        **device_provenance(base),
    }
    run = Run.open(settings.output.out, resolved, provenance)
    if mix["answered"]:
        end_tokens = checkpoint.end_tokens(settings.model, tokenizer)
        own = tasks["harmful"], end_tokens, settings.data.answer_tokens
        tasks["answered"] = answered(base, encoder_of(None), tokenizer, *own)
    fills = settings.supervision.thoughts == "filler"
    write = writer(encoder_of, tokenizer.eos_token_id, protocol, fills)
    training = Training(
        settings,
        base,
        form,
        recipe,
        _batches(settings, tasks, mix, write, base),
        len(tokens),
        _contrast(settings.supervision, base, encoder_of(None)),
        start,
    )
    state = train(run, training, bar)
    params = {name: to_host(array) for name, array in state.params.items()}
    made = _adapter_provenance(run) | _shares(tasks)
    adapter = Adapter(form, params, fingerprint, tokens, made)
    stored_dtype = "bfloat16" if form.rank or form.lens_exits else dtype
    run.write_file(ADAPTER, lambda p: save_adapter(p, adapter, stored_dtype))
    return run


def _check(settings: Tune) -> None:
    values, supervision = flatten(settings), settings.supervision
    check_ranges(settings)
    if not any(values[kind] for kind in KINDS):
        raise InputError(f"an empty batch: give one of {', '.join(KINDS)} a number")
    if settings.trained.train == "lens" and (
        supervision.method != "refusals"
        or (supervision.benign_at, supervision.benign_target) != ("every", "distill")
        or values["harmful"] + values["answered"]
    ):
        raise InputError(
            "a lens learns to say what full depth says: set method to refusals, benign_at to every,"
            " benign_target to distill, harmful and answered to 0"
        )
    if values["answered"] and supervision.method != "refusals":
        raise InputError(f"answered is for method refusals, not {supervision.method}: set it to 0")
    if supervision.thoughts != "own" and supervision.method != "verdicts":
        raise InputError(f"thoughts is {supervision.thoughts}: only method verdicts has thoughts")
    if supervision.contrast and (supervision.method != "refusals" or not values["harmful"]):
        raise InputError(
            "contrast is between the prompts of pairs: set method to refusals, and "
            "harmful and lookalike above 0"
        )
    if supervision.contrast_pairs and not supervision.contrast:
        raise InputError("contrast_pairs are contrasted: set contrast above 0")
    if (
        supervision.method == "dpo"
        and supervision.benign_target == "distill"
        and supervision.benign_at == "every"
    ):
        raise InputError("method dpo compares texts: set benign_target to text")


def _read_tasks(data: TrainingData, thoughts: bool) -> tuple[dict, dict[str, int]]:
    """The tasks to learn from by kind, and how many of each kind a batch has."""
    prompts = read_prompts(data.harmful_prompts, data.columns)
    tasks = read_tasks(prompts, data.benign_answers, data.refuse_random, thoughts)
    mix = {kind: getattr(data, kind) for kind in KINDS}
    for kind, count in mix.items():
        if count and kind != "answered" and not tasks[kind]:
            raise InputError(f"{kind} = {count}, but there are no such prompts")
    return tasks, mix


def _batches(settings: Tune, tasks, mix: Mapping[str, int], write, base: Mistral) -> Batches:
    s = settings.supervision
    return Batches(
        tasks,
        mix,
        write,
        settings.data.answer_tokens,
        settings.output.seed,
        s.decision_tokens,
        s.decision_weight,
        paired=bool(s.contrast),
        more_pairs=s.contrast_pairs,
        thoughts_of="own" if s.thoughts == "filler" else s.thoughts,
        packs=_packs(settings, base),
    )


def _packs(settings: Tune, base: Mistral) -> bool:
    """Whether batches run packed: not where a mesh divides sequences, or they leave out layers."""
    return base.mesh is None and not settings.supervision.layer_dropout


def _contrast(s: Supervision, base: Mistral, encoder: PromptEncoder) -> Contrast | None:
    if not s.contrast:
        return None
    openers = resolve_openers(encoder).values()
    return Contrast(opener_mask(base, openers), s.contrast_margin)


def _recipe(s: Supervision, depth: int, learns_layers: bool) -> Recipe:
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
        contrast=s.contrast,
        rows_per_exit=s.rows_per_exit,
        learns_layers=learns_layers,
    )


def _form(settings: Tune, recipe: Recipe, first_new: int | None) -> Form:
    trained, depth = settings.trained, recipe.depth
    if trained.train == "lens":
        return Form((), (), None, lens_exits=recipe.early, lens_rank=trained.rank)
    return Form(
        layers=tuple(layer - 1 for layer in parse_exits(trained.layers, depth, "layer")),
        leaves=trained.leaves,
        rank=trained.rank if trained.train == "lora" else None,
        alpha=trained.alpha,
        first_new=first_new,
    )


def _start(name: str | None, form: Form, base: Mistral, fingerprint: str) -> Params | None:
    """What an adapter has learned, in the form that is to be trained."""
    if name is None:
        return None
    adapter = read_adapter(name, base.config)
    check_base(adapter, fingerprint, name)
    if adapter.form != form:
        raise InputError(
            f"{name} has the form {adapter.form}, what is to be trained {form}: begin from an "
            "adapter with the same layers, leaves, rank and alpha"
        )
    idle = sorted(k for k, a in adapter.params.items() if k.endswith(".a") and not _all_move(a))
    if idle:
        raise InputError(
            f"{name} has no factors in some layers for {listed(idle)}, and factors of zeros learn "
            "nothing: begin from an adapter with the same layers for every matrix"
        )
    return {key: jnp.asarray(array, jnp.float32) for key, array in adapter.params.items()}


def _all_move(a: AnyArray) -> bool:
    """Whether the first factor of every layer has a number that is not zero, in every direction."""
    return bool(jnp.any(a, axis=1).all())


def _check_start_tokenizer(model: Path, name: str | None, vocab_size: int) -> None:
    """Check that an adapter to begin from was trained on prompts as they are written here."""
    if name is None or not brings_tokenizer(name):
        return
    base = load_adapted_tokenizer(model, None, vocab_size)
    own = load_adapted_tokenizer(model, find_adapter(name), vocab_size)
    what = None if base is None or own is None else tokenizer_difference(own, base)
    if what is not None:
        raise InputError(
            f"{name} was trained with a tokenizer that differs from the checkpoint's in {what}: "
            "convert the base with the tokenizer files of the adapter, and begin from that"
        )


def _shares(tasks: Mapping[str, Sequence[Task]]) -> dict:
    """How many of the untuned model's own answers to harmful prompts refuse, if it gave any."""
    texts = [task.answers[0] for task in tasks.get("answered", ())]
    refused = [r.outcome is Outcome.REFUSE for r in classify_texts(texts)]
    return {"answered": {"prompts": len(texts), "refused": sum(refused)}} if texts else {}


def _new_tokens(protocol: Protocol | None, tokenizer) -> tuple[str, ...]:
    """The protocol's markers and verdicts that look like special tokens and are not there yet."""
    if protocol is None:
        return ()
    words = [protocol.open, protocol.close, *protocol.verdicts[0]]
    vocabulary = tokenizer.get_vocab()
    return tuple(w for w in words if re.fullmatch(r"<\|.+\|>", w) and w not in vocabulary)


def _adapter_provenance(run: Run) -> dict:
    """How an adapter was made: settings, versions, and the digest of the table of losses."""
    facts = run.record["facts"]
    return {
        "settings": run.record["settings"] | {name: facts.get(name) for name in _SOURCES},
        "versions": {k: v for k, v in run.record["versions"].items() if k in _RECORDED},
        "losses": run.record["tables"][LOSS.name]["sha256"],
    }
