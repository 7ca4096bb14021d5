"""A finished evaluation in a terminal: the metrics of each task by exit."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdepth.benchmarks.tables import SCORES
from jaxdepth.errors import visible
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.run_directory import read_frame


def print_scores(run_path: str | Path, console: Console | None = None) -> None:
    """Print a table for each task: a row an exit, a column a metric of a scorer."""
    console = console or Console()
    for task, of_task in read_frame(run_path, SCORES.name).groupby("task", sort=False):
        columns = of_task[["scorer", "metric"]].drop_duplicates().itertuples(index=False)
        table = Table(title=f"{visible(str(task))} by exit (n={of_task['n'].max()})")
        table.add_column("exit", justify="right")
        cells = of_task.set_index(["scorer", "metric", "exit"]).sort_index()
        columns = [tuple(column) for column in columns]
        for scorer, metric in columns:
            table.add_column(visible(f"{metric} ({scorer})"), justify="right", no_wrap=True)
        for exit_layer in sorted(of_task["exit"].unique()):
            row = [str(exit_layer)]
            for column in columns:
                place = (*column, exit_layer)
                row.append(_cell(cells.loc[place]) if place in cells.index else "")
            table.add_row(*row)
        console.print(table)


def _cell(row) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if np.isnan(low) or np.isnan(high):
        return f"{value:.2f}"
    return f"{Estimate(value, low, high):.2f}"
