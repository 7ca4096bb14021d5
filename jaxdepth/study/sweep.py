"""The sweep: every prompt at every exit, in chunks that survive being killed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields

import jax
import pyarrow as pa

from jaxdepth.depth.decode import check_room
from jaxdepth.depth.exits import parse_exits
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError
from jaxdepth.progress import silent
from jaxdepth.refusal.batches import Batch, limit_prompts, make_batches
from jaxdepth.refusal.chat import PromptEncoder
from jaxdepth.refusal.outcome import BUILT_IN, Judge
from jaxdepth.refusal.prompts import Prompt, prompts_digest, read_prompts
from jaxdepth.refusal.tokens import resolve_openers
from jaxdepth.settings import Sweep
from jaxdepth.study.first import first_rows
from jaxdepth.study.run import Run
from jaxdepth.study.speak import Speaker, load_reference
from jaxdepth.weights import checkpoint

PROMPTS, FIRST_TOKEN, GENERATIONS = "prompts", "first_token", "generations"
_PROMPT_SCHEMA = pa.schema([(field.name, pa.string()) for field in fields(Prompt)])
# Where a run is and what it reads from: told by fingerprints and digests instead.
_PLACES = ("model", "out", "reference")

ProgressBar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


def sweep(settings: Sweep, bar: ProgressBar = silent, judge: Judge | None = None) -> Run:
    """Runs `jaxdepth sweep`: writes prompts, first_token and generations as Parquet tables.

    Work is done in batches, each written when it is finished; called again with the same settings
    it goes on where it was stopped.

    Args:
        settings: see `jaxdepth sweep --help`.
        bar: shows progress; see `jaxdepth.progress.progress_bar`.
        judge: says what answers did in place of the built-in detector; see `classify_texts`.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    _check(settings)
    prompts = limit_prompts(read_prompts(settings.prompts), settings.limit)
    manifest = checkpoint.read_manifest(settings.model)
    model, tokenizer = checkpoint.load(settings.model, dtype=settings.dtype)
    if tokenizer is None:
        raise InputError(f"{settings.model} was converted without a tokenizer: prompts need one")
    exits = parse_exits(settings.exits, model.config.num_hidden_layers)
    encoder = PromptEncoder(tokenizer)
    openers = resolve_openers(encoder, settings.openers)
    ids = [encoder.encode(p.text) for p in prompts]
    check_room(model.config, max(map(len, ids)), settings.max_new_tokens)
    decided = {k: v for k, v in asdict(settings).items() if k not in _PLACES} | {
        "command": "sweep",
        "model_fingerprint": manifest["fingerprint"],
        "prompts_sha256": prompts_digest(prompts),
        "exits": exits,
        "openers": openers,
        "dtype": str(model.embed[...].dtype),
        "judge": BUILT_IN if judge is None else getattr(judge, "__qualname__", "own"),
    }
    if settings.reference is not None:
        said = checkpoint.read_manifest(settings.reference)
        decided["reference_fingerprint"] = said["fingerprint"]
    facts = {
        "model": str(settings.model),
        "depth": model.config.num_hidden_layers,
        "chat_template": encoder.has_template,
        "device": jax.devices()[0].device_kind,
        "segments": [asdict(s) for s in plan_segments(exits)],
    }
    run = Run.open(settings.out, decided, facts)
    if not run.finished(PROMPTS):
        run.write_table(PROMPTS, pa.Table.from_pylist([vars(p) for p in prompts], _PROMPT_SCHEMA))

    def first(batch: Batch) -> pa.Table:
        return first_rows(model, tokenizer, batch, prompts, exits, openers.values())

    in_parts(run, FIRST_TOKEN, make_batches(ids, settings.batch_size), first, bar)
    if settings.max_new_tokens and not run.finished(GENERATIONS):
        chosen = len(limit_prompts(prompts, settings.generate_limit))
        speaker = Speaker(
            settings=settings,
            model=model,
            tokenizer=tokenizer,
            exits=tuple(exits),
            end_tokens=checkpoint.end_tokens(settings.model, tokenizer),
            reference=load_reference(settings, model, encoder),
            judge=judge,
        )
        batches = make_batches(ids[:chosen], settings.batch_size)
        in_parts(run, GENERATIONS, batches, lambda b: speaker.rows(b, prompts), bar)
    return run


def in_parts(
    run: Run,
    table: str,
    batches: Sequence[Batch],
    rows: Callable[[Batch], pa.Table],
    bar: ProgressBar,
) -> None:
    """Makes a table of a run batch by batch, leaving out what an earlier attempt has done."""
    if run.finished(table):
        return
    total = sum(len(batch.prompts) for batch in batches)
    with bar(table.replace("_", " "), "prompts") as progress:
        done = 0
        for number, batch in enumerate(batches):
            if not run.has_part(table, number):
                run.write_part(table, number, rows(batch))
            done += len(batch.prompts)
            progress(done, total)
    run.finish_parts(table, len(batches))


def _check(settings: Sweep) -> None:
    """What can be wrong with the settings by themselves, before anything is loaded."""
    Sampling(settings.temperature, settings.top_k, settings.top_p)
    for name, least in (("batch_size", 1), ("samples", 1), ("max_new_tokens", 0)):
        if getattr(settings, name) < least:
            raise InputError(f"{name} is {getattr(settings, name)}, expected at least {least}")
    if settings.samples > 1 and settings.temperature == 0:
        raise InputError("several samples at temperature 0 are all alike: set --temperature")
    if not settings.memory_gb > 0:
        raise InputError(f"memory_gb is {settings.memory_gb}, expected more than 0")
    if any(not stop for stop in settings.stop):
        raise InputError("an empty stop text would end every answer: leave it out")
