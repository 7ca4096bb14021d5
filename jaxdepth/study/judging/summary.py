"""Judges of a run in a terminal: how far they agree, and what they take for one another."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.judging.agreement import RUN
from jaxdepth.study.judging.tables import AGREEMENT, CONFUSION, JUDGEMENTS
from jaxdepth.study.run_directory import read_frame

_TABLES = (JUDGEMENTS, AGREEMENT, CONFUSION)


def print_judges(run_path: Path, console: Console | None = None) -> None:
    """Print the agreement of all judges, by exit that with the run, and confusion tables."""
    console = console or Console()
    agreement = read_frame(run_path, AGREEMENT)
    confusion = read_frame(run_path, CONFUSION)
    judgements = read_frame(run_path, JUDGEMENTS)
    console.print(_agreement_table(agreement[agreement["exit"].isna()]))
    by_exit = agreement[agreement["exit"].notna() & (agreement["first"] == RUN)]
    if by_exit["exit"].nunique() > 1:
        console.print(_exit_table(by_exit))
    for (first, second), counts in confusion[confusion["first"] == RUN].groupby(
        ["first", "second"], sort=False
    ):
        console.print(_confusion_table(first, second, counts))
    failed = judgements[judgements["failed"]]
    for name, rows in failed.groupby("judge"):
        console.print(f"{name} gave no verdict on {len(rows)} answers: they are undetermined.")
    console.print(
        "Agreement is not accuracy: two judges may err alike. `run` is what the run itself says."
    )
    names = ", ".join(f"{table.name}.parquet" for table in _TABLES)
    console.print(f"\nTables are in {run_path}: {names}", soft_wrap=True)


def _agreement_table(rows: pd.DataFrame) -> Table:
    table = Table(title="Agreement of judges: Cohen's kappa over all outcomes [95% interval]")
    for column in ("first", "second"):
        table.add_column(column)
    for column in ("answers", "prompts", "agree", "kappa"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        counts = (f"{row['n']:.0f}", f"{row['prompts']:.0f}", f"{row['agreement']:.0%}")
        table.add_row(row["first"], row["second"], *counts, _kappa(row))
    return table


def _exit_table(rows: pd.DataFrame) -> Table:
    table = Table(title="Kappa with the run's own outcomes, by exit")
    table.add_column("exit", justify="right")
    judges = list(dict.fromkeys(rows["second"]))
    for judge in judges:
        table.add_column(judge, justify="right")
    for exit_layer, some in rows.groupby("exit"):
        of_judge = {row["second"]: _kappa(row) for row in some.to_dict("records")}
        table.add_row(f"{exit_layer:.0f}", *(of_judge[judge] for judge in judges))
    return table


def _confusion_table(first: str, second: str, counts: pd.DataFrame) -> Table:
    """Rows are the first judge's outcomes, columns the second's; those without answers left out."""
    wide = counts.pivot(index="outcome_first", columns="outcome_second", values="n").fillna(0)
    shown = {
        axis: [o for o in map(str, Outcome) if o in labels]
        for axis, labels in (("rows", wide.index), ("columns", wide.columns))
    }
    table = Table(title=f"Answers by outcome: {first} in rows, {second} in columns")
    table.add_column(first)
    for outcome in shown["columns"]:
        table.add_column(outcome, justify="right")
    for outcome in shown["rows"]:
        table.add_row(outcome, *(f"{wide.loc[outcome, other]:.0f}" for other in shown["columns"]))
    return table


def _kappa(row: dict) -> str:
    if pd.isna(row["kappa"]):
        return "one outcome only"
    if pd.isna(row["low"]):
        return f"{row['kappa']:.2f}"
    return f"{row['kappa']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
