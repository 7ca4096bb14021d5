"""Progress bars on standard error, so that standard output holds only results."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxdepth.runtime.distributed import is_first

# Called with a description and a unit; the block yields update(done, total).
ProgressBar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


@contextmanager
def silent(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that shows nothing, for use as a library."""
    yield lambda done, total: None


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs; yields update(done, total)."""
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
    # FORCE_COLOR asks for colour, not for the cursor codes of a bar where there is no cursor.
    console = Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
