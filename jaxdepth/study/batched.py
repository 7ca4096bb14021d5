"""Batches on the device while the host writes those before."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import pyarrow as pa

from jaxdepth.prompts.batches import Batch
from jaxdepth.runtime import preemption
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.study.run_directory import Run

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
    total = sum(len(batch.indices) for batch in batches)
    there, count = run.parts_done(wanted, len(batches)), jax.process_count()

    def write(number: int, on_host: OnHost) -> None:
        for table, content in zip(tables, on_host(), strict=True):
            if table in wanted:
                run.write_part(table, number, content, writer=number % count)

    with bar(tables[0].replace("_", " "), "prompts") as progress, ThreadPoolExecutor(1) as host:
        done, writing = 0, None
        for number, batch in enumerate(batches):
            if not there[number]:
                preemption.raise_if_stop_requested()
                on_host = rows(batch)
                if writing is not None:
                    writing.result()
                mine = number % count == jax.process_index()
                writing = host.submit(write, number, on_host) if mine else None
            done += len(batch.indices)
            progress(done, total)
        if writing is not None:
            writing.result()
    for table in wanted:
        run.finish_parts(table, len(batches))
