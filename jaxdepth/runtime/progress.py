"""Progress bars on standard error, so that standard output holds only results."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxdepth.runtime.distributed import is_first

# Called with a description and a unit; the block yields update(done, total).
ProgressBar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]

_is_quiet = ContextVar("is_quiet", default=False)


@contextmanager
def silent(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that shows nothing, for use as a library."""
    yield lambda done, total: None


@contextmanager
def quiet_output(quiet: bool = True) -> Iterator[None]:
    """Show no progress bars, and print nothing to standard output, while the block runs."""
    if not quiet:
        yield
        return
    token = _is_quiet.set(True)
    try:
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
            yield
    finally:
        _is_quiet.reset(token)


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs; yields update(done, total)."""
    if not is_first() or _is_quiet.get():
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
