"""Progress of long work, on standard error, so that tables on standard output stay clean."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxdepth.runtime.distributed import is_first

# Of what, in what unit: a block that yields a function of how much is done and how much there is
ProgressBar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


@contextmanager
def silent(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows nothing: for use as a library."""
    yield lambda done, total: None


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar while the block runs; yields a function of what is done and what there is."""
    if not is_first():
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
