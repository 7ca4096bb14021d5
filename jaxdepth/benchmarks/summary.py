"""A finished evaluation in a terminal: the metrics of each task by exit."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxdepth.benchmarks.tables import SCORES
from jaxdepth.errors import visible
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.wording import runs_of_exits


def print_scores(run_path: str | Path, console: Console | None = None) -> None:
    """Print a table for each task: a row an exit, a column a metric of a scorer."""
    console = console or Console()
    for task, of_task in shown_scores(run_path).groupby("task", sort=False):
        columns = of_task[["scorer", "metric"]].drop_duplicates().itertuples(index=False)
        table = Table(title=f"{visible(str(task))} by exit (n={of_task['n'].max()})")
        table.add_column("exit", justify="right")
        cells = of_task.set_index(["scorer", "metric", "exit"]).sort_index()
        columns = [tuple(column) for column in columns]
        for scorer, metric in columns:
            table.add_column(visible(_name(metric, scorer)), justify="right", no_wrap=True)
        for exit_layer in sorted(of_task["exit"].unique()):
            row = [str(exit_layer)]
            for column in columns:
                place = (*column, exit_layer)
                row.append(_cell(cells.loc[place]) if place in cells.index else "")
            table.add_row(*row)
        console.print(table)
        for scorer, metric in columns:
            for line in findings(_name(metric, scorer), cells.loc[(scorer, metric)]):
                console.print(visible(line), soft_wrap=True)


def shown_scores(run_path: str | Path) -> pd.DataFrame:
    """What is printed and drawn: groups of tasks where there are some, otherwise every task."""
    scores = read_frame(run_path, SCORES)
    is_group = scores["is_group"].fillna(False).astype(bool)
    return scores[is_group] if is_group.any() else scores


def findings(name: str, by_exit: pd.DataFrame) -> list[str]:
    """Which exits differ from full depth for the worse, in one sentence where that is known."""
    difference = by_exit["minus_full"].dropna()
    if difference.empty:
        return []
    higher = by_exit["higher_is_better"].iloc[0]
    is_more_better = bool(pd.isna(higher) or higher)
    bound_E = by_exit["minus_full_high" if is_more_better else "minus_full_low"].to_numpy(float)
    is_worse_E = bound_E < 0 if is_more_better else bound_E > 0
    worse = runs_of_exits(by_exit.index.to_numpy(), is_worse_E)
    chance = by_exit["chance"].iloc[0]
    guessing = "" if np.isnan(chance) else f" Guessing gives {chance:.2f}."
    return [f"{name}: worse than full depth (95%, paired by sample) at exits {worse}.{guessing}"]


def _name(metric: str, scorer: str) -> str:
    return metric if scorer == "none" else f"{metric} ({scorer})"


def _cell(row) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if np.isnan(low) or np.isnan(high):
        return f"{value:.2f}"
    return f"{Estimate(value, low, high):.2f}"
