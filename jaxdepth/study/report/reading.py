"""Finished runs as a report shows them; every table is compared with its digest as it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.prompts.prompt import Prompt
from jaxdepth.study.common_tables import (
    FIRST_TOKEN,
    GENERATIONS,
    PROMPTS,
    check_once,
    prompt_rows,
)
from jaxdepth.study.comparison.tables import COMPARISON
from jaxdepth.study.labelling.run import find_runs
from jaxdepth.study.policies.tables import DYNAMIC, POLICIES
from jaxdepth.study.probes.tables import CURVES, PROBES
from jaxdepth.study.prompting.sets import read_prompts_of
from jaxdepth.study.report.safe_text import tame_name
from jaxdepth.study.run_directory import read_declared, read_frame, read_record
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.outcomes import Outcomes, read_outcomes
from jaxdepth.study.sweep.rates import outcome_frames, read_windows, windows_of
from jaxdepth.study.sweep.tables import CURVE, WINDOWS
from jaxdepth.study.sweep.windows import ExitWindows
from jaxdepth.study.tables import Table
from jaxdepth.study.verdicts.tables import VERDICT_TABLE

SWEEP, POLICY, DECIDE, PROBE = "sweep", "sweep --policy", "decide", "probe"
# The tables without which a run of a command is not finished.
_NEEDED = {
    SWEEP: (PROMPTS.name, FIRST_TOKEN.name, CURVE.name),
    POLICY: (PROMPTS.name, DYNAMIC.name, POLICIES.name),
    DECIDE: (PROMPTS.name, VERDICT_TABLE.name),  # in a comparison it has no scores
    PROBE: (PROMPTS.name, PROBES.name, CURVES.name),
}


@dataclass(frozen=True)
class ReportRun:
    """A finished run."""

    name: str  # unique in a report, and made harmless
    path: Path
    record: dict  # what run.json holds

    @property
    def command(self) -> str:
        return self.record["settings"]["command"]

    @property
    def depth(self) -> int:
        """The number of layers of the model."""
        return int(self.record["facts"]["depth"])

    def has(self, table: str) -> bool:
        """Whether the run has a finished table of that name, with rows."""
        return table in self.record["tables"] and self.record["tables"][table]["rows"] > 0

    def frame(self, table: Table) -> pd.DataFrame:
        """A table as a data frame; raises InputError where it is damaged."""
        return read_frame(self.path, table)

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """The prompts by their ids."""
        return prompt_rows(self.path)

    @cached_property
    def asked(self) -> dict[str, Prompt]:
        """The prompts with all that comes before and after their texts."""
        return read_prompts_of(self.path)

    @cached_property
    def outcomes(self) -> Outcomes | None:
        """The outcome of every answer at every exit; None where exits did not answer."""
        if self.command == SWEEP and self.has(GENERATIONS.name):
            return read_outcomes(self.path)
        if self.command == DECIDE:
            verdicts = self.frame(VERDICT_TABLE)
            if verdicts["answer_outcome"].notna().all():
                return read_outcomes(self.path)
        return None

    @cached_property
    def windows(self) -> ExitWindows | None:
        """Which exits can answer, and which answer harmful prompts; None without answers."""
        if self.has(WINDOWS.name):
            windows = read_windows(self.path)
            if self.outcomes is not None and windows.exits.tolist() != self.outcomes.exits:
                raise InputError(
                    f"{self.path}: the tables windows and generations have other exits: it is "
                    "damaged, run the command again to another --out"
                )
            return windows
        return None if self.outcomes is None else windows_of(self.outcomes, Windows())

    @cached_property
    def curve(self) -> pd.DataFrame | None:
        """Measures by label and exit, as the table curve of a sweep."""
        if self.has(CURVE.name):
            curve = self.frame(CURVE)
            check_once(curve, ["metric", "label", "exit"], f"{self.path}: the table {CURVE.name}")
            exits = set(curve.loc[curve["metric"].str.startswith("outcome_"), "exit"])
            if self.outcomes is not None and exits != set(self.outcomes.exits):
                raise InputError(
                    f"{self.path}: the tables {CURVE.name} and generations have other exits: it is "
                    "damaged, run the command again to another --out"
                )
            return curve
        return None if self.outcomes is None else pd.concat(outcome_frames(self.outcomes))


def read_runs(paths: Sequence[Path]) -> list[ReportRun]:
    """The runs that are named, or that lie in a folder that is named.

    Raises:
        InputError: a path is no run, or a run is of another command, unfinished or damaged.
    """
    found = [run for path in paths for run in _in_order(path, find_runs([path]))]
    found = list(dict.fromkeys(found))
    if not found:
        find_runs(paths)  # says what is missing
    names = [path.resolve().name for path in found]
    runs = []
    for path, name in zip(found, names, strict=True):
        if names.count(name) > 1:
            name = "/".join(path.resolve().parts[-2:])
        runs.append(_read_run(path, tame_name(name)))
    return runs


def _in_order(folder: Path, runs: list[Path]) -> list[Path]:
    """The runs of a comparison in the order of its table; others as they are."""
    file = folder / f"{COMPARISON.name}.parquet"
    if not file.is_file():
        return runs
    models = read_declared(file, COMPARISON)["model"].unique().to_pylist()
    place = {name: number for number, name in enumerate(models)}
    return sorted(runs, key=lambda run: place.get(run.name, len(models)))


def _read_run(path: Path, name: str) -> ReportRun:
    record = read_record(path)
    settings = record["settings"]
    command = settings.get("command")
    if command not in _NEEDED:
        what = command or ("tune" if "tasks_sha256" in settings else "another kind")
        raise InputError(f"{path} is a run of {what}: expected one of sweep, decide or probe")
    needed = list(_NEEDED[command])
    if command == SWEEP and settings.get("max_new_tokens"):
        needed += [GENERATIONS.name, WINDOWS.name]
    for table in needed:
        if table not in record["tables"] or not (path / f"{table}.parquet").is_file():
            raise InputError(
                f"{path} is not finished (it has no table {table}): run its command again first"
            )
        if not record["tables"][table]["rows"]:
            raise InputError(
                f"{path}: the table {table} has no rows: it is damaged, run the command again to "
                "another --out"
            )
    if not isinstance(record["facts"].get("depth"), int):
        raise InputError(f"{path} does not say how many layers its model has: run it again")
    return ReportRun(name, path, record)
