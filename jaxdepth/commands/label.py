"""`jaxdepth label`: label a blind sample of answers by hand, and correct all rates by it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from jaxdepth.errors import visible
from jaxdepth.runtime.lock import hold_target
from jaxdepth.study.labelling.raters import FOLDER
from jaxdepth.study.labelling.run import comparisons_of, open_session, write_corrected
from jaxdepth.study.labelling.session import LabelledRun, Session
from jaxdepth.study.labelling.settings import Label
from jaxdepth.study.labelling.spreadsheet import export_csv, import_csv
from jaxdepth.study.labelling.summary import agreement_lines, corrected_lines, progress_line
from jaxdepth.study.labelling.tables import CORRECTED
from jaxdepth.study.labelling.terminal import keys_of_terminal, label_in_terminal
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.study.sweep.figures import draw_outcomes
from jaxdepth.study.sweep.tables import WINDOWS


def run(settings: Label) -> int:
    runs, session = open_session(settings)
    with ExitStack() as locks:  # a rater labels in one process; others may label meanwhile
        for labelled in runs:
            locks.enter_context(hold_target(labelled.path / FOLDER / settings.rater))
        return _label(settings, runs, session)


def _label(settings: Label, runs: Sequence[LabelledRun], session: Session) -> int:
    if settings.export is not None:
        export_csv(session, settings.export)
        print(
            f"{settings.export}: {len(session.items)} texts. Fill in the column label, then read "
            f"it with --import {settings.export} --rater {settings.rater}"
        )
        return 0
    if settings.import_ is not None:
        count = import_csv(session, settings.import_)
        print(f"{settings.import_}: {count} labels by {settings.rater}")
    else:
        with keys_of_terminal() as read_key:
            label_in_terminal(session, read_key, _write)
    print(f"\n{progress_line(session, settings.rater)}")
    if session.labelled:
        print_results(runs)
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def print_results(runs: Sequence[LabelledRun]) -> None:
    """Write what follows from the labels, draw its figures again, and print what has changed."""
    write_corrected(runs)
    lines = [*agreement_lines(runs)]
    for run in runs:
        lines += corrected_lines(run)
    print("\n".join(map(visible, lines)))
    places = ", ".join(str(run.path) for run in runs)
    print(f"\nTables labels and corrected, and corrected columns of curve: {visible(places)}")
    for comparison in comparisons_of(runs):
        print(
            f"Corrected columns: {visible(str(comparison))}. Its figure shows corrected rates when "
            "the command that made it runs again"
        )
    for path in draw_again(runs):
        print(f"  {visible(str(path))}")


def draw_again(runs: Sequence[LabelledRun]) -> Iterator[Path]:
    """Draw the figures of sweeps that show corrected rates."""
    for run in runs:
        is_corrected = not read_frame(run.path, CORRECTED).empty
        # A run of an earlier version has no windows, until its command is run again.
        if is_corrected and WINDOWS.name in read_record(run.path)["tables"]:
            yield from draw_outcomes(run.path)
