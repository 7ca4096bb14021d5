"""A finished map of exit depth and prefill length in a terminal: a table, and what it shows."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.prefills.tables import PREFILL_MAP
from jaxdepth.study.run_directory import read_frame

_COMPLY = f"outcome_{Outcome.COMPLY}"
_LOG_ODDS = "refusal_log_odds"


def print_prefills(run_path: str | Path, console: Console | None = None) -> None:
    """Print, for each label, one row an exit and one column a prefill length."""
    console = console or Console()
    frame = read_frame(run_path, PREFILL_MAP)
    metric = _COMPLY if (frame["metric"] == _COMPLY).any() else _LOG_ODDS
    for label in sorted(frame["label"].unique()):
        rows = frame[(frame["metric"] == metric) & (frame["label"] == label)]
        wide = rows.pivot(index="exit", columns="prefill_tokens", values="value")
        what = (
            "answered to the point, in %"
            if metric == _COMPLY
            else "refusal log-odds of the next token (nats)"
        )
        table = Table(title=f"{label} prompts (n={rows['n'].iloc[0]}) {what}, by prefill in tokens")
        table.add_column("exit", justify="right")
        for length in wide.columns:
            table.add_column(str(length), justify="right")
        for exit_layer, values in wide.iterrows():
            cells = [f"{100 * v:.0f}" if metric == _COMPLY else f"{v:.2f}" for v in values]
            table.add_row(str(exit_layer), *cells)
        console.print(table)
    for line in prefill_findings(frame):
        console.print(line, soft_wrap=True)


def prefill_findings(frame: pd.DataFrame) -> list[str]:
    """What the map shows at its deepest exit, one sentence each."""
    deepest = frame[frame["exit"] == frame["exit"].max()]
    lines = []
    for label in ("harmful", "harmless"):
        rows = deepest[(deepest["label"] == label) & (deepest["metric"] == _COMPLY)]
        if rows["prefill_tokens"].nunique() > 1:
            shares = [
                f"{row.value:.0%}{_interval(row.low, row.high)} after {row.prefill_tokens}"
                for row in rows.sort_values("prefill_tokens").itertuples()
            ]
            lines.append(
                f"At exit {deepest['exit'].iloc[0]}, {label} prompts answered to the point by "
                f"prefill in tokens: {', '.join(shares)} (95% intervals, each by itself)."
            )
    return lines


def _interval(low: float, high: float) -> str:
    return "" if pd.isna(low) or pd.isna(high) else f" [{low:.0%}, {high:.0%}]"
