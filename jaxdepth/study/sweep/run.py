"""The sweep: every prompt at every exit, in chunks that survive being killed."""

from dataclasses import asdict

from jaxdepth.depth.generation import check_room
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError, at_least
from jaxdepth.prompts.batches import Batch, limit_prompts, make_batches
from jaxdepth.refusal.openers import resolve_openers
from jaxdepth.refusal.outcome import BUILT_IN, Judge
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import Speaker
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.first_token import first_rows
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.settings import Sweep

FIRST_TOKEN, GENERATIONS = "first_token", "generations"


def sweep(settings: Sweep, bar: ProgressBar = silent, judge: Judge | None = None) -> Run:
    """Runs `jaxdepth sweep`: writes prompts, first_token and generations as Parquet tables.

    Work is done in batches, each written when it is finished; called again with the same settings
    it goes on where it was stopped.

    Args:
        settings: see `jaxdepth sweep --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.
        judge: says what answers did in place of the built-in detector; see `classify_texts`.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    check_sweep(settings)
    subject = Subject.open(settings)
    model, prompts, exits = subject.model, subject.prompts, subject.exits
    openers = resolve_openers(subject.encoder, settings.openers)
    ids = [subject.encoder.encode(p.text) for p in prompts]
    check_room(model.config, max(map(len, ids)), settings.max_new_tokens)
    decided = subject.decided(settings) | {
        "command": "sweep",
        "openers": openers,
        "judge": BUILT_IN if judge is None else getattr(judge, "__qualname__", "own"),
    }
    segments = [asdict(s) for s in plan_segments(exits)]
    run = Run.open(settings.out, decided, subject.facts(settings) | {"segments": segments})
    subject.write_prompts(run)

    def first(batch: Batch) -> OnHost:
        return first_rows(model, subject.tokenizer, batch, prompts, exits, openers.values())

    in_parts(run, (FIRST_TOKEN,), make_batches(ids, settings.batch_size, model.mesh), first, bar)
    if settings.max_new_tokens and not run.finished(GENERATIONS):
        chosen = len(limit_prompts(prompts, settings.generate_limit))
        speaker = Speaker(settings, subject, subject.reference(settings), judge)
        batches = make_batches(ids[:chosen], settings.batch_size, model.mesh)
        in_parts(run, (GENERATIONS,), batches, speaker.rows, bar)
    return run


def check_sweep(settings: Sweep) -> None:
    """What can be wrong with the settings by themselves, before anything is loaded."""
    Sampling(settings.temperature, settings.top_k, settings.top_p)
    at_least(1, batch_size=settings.batch_size, samples=settings.samples)
    at_least(0, max_new_tokens=settings.max_new_tokens)
    if settings.samples > 1 and settings.temperature == 0:
        raise InputError("several samples at temperature 0 are all alike: set --temperature")
    if not settings.memory_gb > 0:
        raise InputError(f"memory_gb is {settings.memory_gb}, expected more than 0")
    if any(not stop for stop in settings.stop):
        raise InputError("an empty stop text would end every answer: leave it out")
