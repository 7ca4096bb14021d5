"""`jaxdepth label`: draw the sample, take labels, and write the tables that follow from them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from jaxdepth.errors import InputError
from jaxdepth.runtime.lock import hold_folder
from jaxdepth.study.atomic_files import atomic_write, parquet
from jaxdepth.study.labelling.answers import read_answers
from jaxdepth.study.labelling.corrected import (
    COLUMNS,
    COMPARISON_KEYS,
    CURVE_KEYS,
    correct_comparison,
    correct_curve,
    corrected_rates,
)
from jaxdepth.study.labelling.plan import open_plan
from jaxdepth.study.labelling.raters import restore_raters, write_labels
from jaxdepth.study.labelling.session import LabelledRun, Session
from jaxdepth.study.labelling.settings import Label
from jaxdepth.study.labelling.tables import CORRECTED
from jaxdepth.study.run_directory import RUN_FILE, Run, read_declared, read_record, read_table


def open_session(settings: Label) -> tuple[list[LabelledRun], Session]:
    """The runs with their samples, drawn now or earlier, and the rater's labels so far.

    Raises:
        InputError: a path is no run, its texts were not kept, or a setting is wrong.
    """
    if settings.export is not None and settings.import_ is not None:
        raise InputError("--export and --import: give one of them")
    # All runs are read before a sample is written, so that a wrong one changes nothing.
    answers = {path: read_answers(path) for path in find_runs(settings.runs)}
    sample = settings.n, settings.bands, settings.seed
    with _held(answers):
        runs = [
            LabelledRun(path, frame, open_plan(path, frame, *sample))
            for path, frame in answers.items()
        ]
        for run in runs:
            restore_raters(run.path, run.answers)
    return runs, Session(runs, settings.rater)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run directories that are named, or that lie in a folder that is named, each once.

    Raises:
        InputError: there is none.
    """
    if not paths:
        raise InputError("no run is named: give the directory of a run, or of a comparison")
    runs: dict[Path, None] = {}
    for path in paths:
        inside = [file.parent for file in path.glob(f"prefill-*/{RUN_FILE}")]
        inside.sort(key=lambda run: (len(run.name), run.name))  # by their numbers
        if not inside and (path / RUN_FILE).is_file():
            inside = [path]
        inside = inside or sorted(file.parent for file in path.glob(f"*/{RUN_FILE}"))
        if not inside:
            raise InputError(
                f"{path} is no run directory (it has no {RUN_FILE}), and has none in it"
            )
        runs |= dict.fromkeys(inside)
    return list(runs)


def write_corrected(runs: Sequence[LabelledRun]) -> None:
    """Write what follows from the labels: labels, corrected, and corrected columns of curves.

    The comparison in a folder of runs gets its corrected columns, too.
    """
    with _held(run.path for run in runs):
        _write_corrected(runs)


@contextmanager
def _held(paths: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of runs: what is read of them and written back is nobody else's meanwhile."""
    with ExitStack() as locks:
        for path in paths:
            locks.enter_context(hold_folder(path))
        yield


def _write_corrected(runs: Sequence[LabelledRun]) -> None:
    for run in runs:
        write_labels(run.path, run.plan, run.answers)
        record = read_record(run.path)
        rates = CORRECTED.from_frame(corrected_rates(run.path))
        Run(run.path, record).write_table(CORRECTED.name, rates)
        if "curve" in record["tables"]:
            curve = read_table(run.path, CURVE_KEYS)
            corrected = correct_curve(curve.to_pandas(), run.path)
            columns = _set_columns(curve, corrected)
            Run(run.path, read_record(run.path)).write_table("curve", columns)
    for file in comparisons_of(runs):
        table = read_declared(file, COMPARISON_KEYS)
        models = dict.fromkeys(table["model"].to_pylist())
        beside = {model: file.parent / model for model in models}
        existing = {model: path for model, path in beside.items() if (path / RUN_FILE).is_file()}
        corrected = correct_comparison(table.to_pandas(), existing)
        atomic_write(file, parquet(_set_columns(table, corrected)))


def comparisons_of(runs: Sequence[LabelledRun]) -> list[Path]:
    """The tables of comparisons that lie beside some runs."""
    files = (run.path.parent / "comparison.parquet" for run in runs)
    return [file for file in dict.fromkeys(files) if file.is_file()]


def _set_columns(table: pa.Table, frame: pd.DataFrame) -> pa.Table:
    """A table with the corrected columns of a data frame, in place of those that it has."""
    kept = table.select([name for name in table.column_names if name not in COLUMNS])
    for name in COLUMNS:
        values = pa.array(frame[name], pa.float64(), from_pandas=True)
        kept = kept.append_column(name, values)
    return kept
