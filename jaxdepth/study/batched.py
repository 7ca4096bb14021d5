"""The devices run a batch while the host writes the one before it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import jax
import pyarrow as pa

from jaxdepth.runtime import preemption
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.study.run_directory import Run


class HasIndices(Protocol):
    """A batch: which prompts, or requests, it is of."""

    @property
    def indices(self) -> Sequence[int]: ...


AnyBatch = TypeVar("AnyBatch", bound=HasIndices)
# The host's part of a batch, after the devices': makes one chunk of each table.
OnHost = Callable[[], Sequence[pa.Table]]


def in_parts(
    run: Run,
    tables: Sequence[str],
    batches: Sequence[AnyBatch],
    rows: Callable[[AnyBatch], OnHost],
    bar: ProgressBar,
    unit: str = "prompts",
) -> None:
    """Write tables of a run batch by batch, skipping batches that an earlier attempt wrote.

    Args:
        run: the run, in which each batch is one chunk of each table.
        tables: names of the tables.
        batches: of prompts.
        rows: runs a batch on the devices. The function that it returns makes the chunks on the
            host, while the devices run the next batch. Of several processes each makes the chunks
            of some batches.
        bar: shows progress.
        unit: what the batches are of.

    Raises:
        Stopped: the process has received SIGTERM; the batches so far are written.
    """
    unfinished = [table for table in tables if not run.finished(table)]
    if not unfinished:
        return
    total = sum(len(batch.indices) for batch in batches)
    is_done, processes = run.parts_done(unfinished, len(batches)), jax.process_count()

    def write(number: int, on_host: OnHost) -> None:
        for table, content in zip(tables, on_host(), strict=True):
            if table in unfinished:
                run.write_part(table, number, content, writer=number % processes)

    with bar(tables[0].replace("_", " "), unit) as progress, ThreadPoolExecutor(1) as host:
        done, writing = 0, None
        for number, batch in enumerate(batches):
            if not is_done[number]:
                preemption.raise_if_stop_requested()
                on_host = rows(batch)
                if writing is not None:
                    writing.result()
                is_writer = number % processes == jax.process_index()
                writing = host.submit(write, number, on_host) if is_writer else None
            done += len(batch.indices)
            progress(done, total)
        if writing is not None:
            writing.result()
    for table in unfinished:
        run.finish_parts(table, len(batches))
