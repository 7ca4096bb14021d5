"""The sweep: every prompt at every exit, in chunks that survive being killed."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import jax
import pyarrow as pa

from jaxdepth import stopping
from jaxdepth.depth.generation import check_room
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError, at_least
from jaxdepth.progress import ProgressBar, silent
from jaxdepth.refusal.batches import Batch, limit_prompts, make_batches
from jaxdepth.refusal.outcome import BUILT_IN, Judge
from jaxdepth.refusal.tokens import resolve_openers
from jaxdepth.settings import Sweep
from jaxdepth.study.first import first_rows
from jaxdepth.study.run import Run
from jaxdepth.study.speak import Speaker
from jaxdepth.study.subject import Subject

FIRST_TOKEN, GENERATIONS = "first_token", "generations"


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


# What is left to do with a batch when the devices are done with it.
OnHost = Callable[[], Sequence[pa.Table]]


def in_parts(
    run: Run,
    tables: Sequence[str],
    batches: Sequence[Batch],
    rows: Callable[[Batch], OnHost],
    bar: ProgressBar,
) -> None:
    """Makes tables of a run batch by batch, leaving out what an earlier attempt has done.

    `rows` asks the devices; what it returns makes the tables, while the devices go on with the next
    batch. Of several processes each does that for some of the batches.

    Raises:
        Stopped: the process was asked to end; the batches so far are written.
    """
    wanted = [table for table in tables if not run.finished(table)]
    if not wanted:
        return
    total = sum(len(batch.prompts) for batch in batches)
    there, count = run.parts_done(wanted, len(batches)), jax.process_count()

    def write(number: int, on_host: OnHost) -> None:
        for table, content in zip(tables, on_host(), strict=True):
            if table in wanted:
                run.write_part(table, number, content, writer=number % count)

    with bar(tables[0].replace("_", " "), "prompts") as progress, ThreadPoolExecutor(1) as host:
        done, writing = 0, None
        for number, batch in enumerate(batches):
            if not there[number]:
                stopping.check()
                on_host = rows(batch)
                if writing is not None:
                    writing.result()
                mine = number % count == jax.process_index()
                writing = host.submit(write, number, on_host) if mine else None
            done += len(batch.prompts)
            progress(done, total)
        if writing is not None:
            writing.result()
    for table in wanted:
        run.finish_parts(table, len(batches))


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
