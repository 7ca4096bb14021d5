"""A finished run of exit policies in a terminal: a table by rule, and what it shows in words."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jaxdepth.depth.policies import Policy
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.policies.rates import (
    AGREEMENT,
    MATCHED,
    MEAN_EXIT,
    MEAN_LAYERS,
    POLICIES,
)
from jaxdepth.study.run_directory import read_table

_COLUMNS = {
    MEAN_EXIT: "mean exit",
    MEAN_LAYERS: "layers",
    AGREEMENT: "agrees",
    Outcome.REFUSE: "refuse",
    Outcome.COMPLY: "comply",
    Outcome.DEGENERATE: "degenerate",
}


def print_policies(run_path: str | Path, console: Console | None = None) -> None:
    """Prints a table by rule and label, and the findings, on standard output."""
    console = console or Console()
    rows = read_table(run_path, POLICIES).to_pylist()
    cell = {(r["rule"], r["label"], r["metric"]): r["value"] for r in rows}
    for label in dict.fromkeys(r["label"] for r in rows):
        table = Table(title=f"Tokens that exit by policy: {label} prompts")
        table.add_column("rule")
        for name in _COLUMNS.values():
            table.add_column(name, justify="right")
        for rule in dict.fromkeys(r["rule"] for r in rows):
            found = {metric: cell[rule, label, metric] for metric in _COLUMNS}
            table.add_row(
                rule,
                *(f"{found.pop(m):.1f}" for m in (MEAN_EXIT, MEAN_LAYERS)),
                *(f"{value:.0%}" for value in found.values()),
            )
        console.print(table)
    for line in policy_findings(run_path):
        console.print(line, soft_wrap=True)


def policy_findings(run_path: str | Path) -> list[str]:
    """What the comparison with static truncation shows, one sentence for each policy."""
    rows = read_table(run_path, MATCHED).to_pylist()
    lines = []
    for policy in (p for p in Policy if p in {r["policy"] for r in rows}):
        for label, outcome in (
            ("harmful", Outcome.REFUSE), ("harmful", Outcome.COMPLY), ("harmless", Outcome.COMPLY),
        ):  # fmt: skip
            mine = [
                r for r in rows
                if (r["policy"], r["label"], r["metric"]) == (policy, label, outcome)
            ]  # fmt: skip
            if not mine:
                continue
            more = [r["rule"] for r in mine if r["low"] > 0]
            less = [r["rule"] for r in mine if r["high"] < 0]
            most = max(mine, key=lambda r: abs(r["difference"]))
            lines.append(
                f"{policy} against static truncation at the same mean depth, {label} {outcome}: "
                f"more often at {_some(more)}, less often at {_some(less)}; largest "
                f"{100 * most['difference']:+.0f} [{100 * most['low']:+.0f}, "
                f"{100 * most['high']:+.0f}] points at {most['rule']} "
                f"({most['mean_layers']:.1f} layers)."
            )
    return lines


def _some(rules: list[str]) -> str:
    return ", ".join(rules) if rules else "no rule"
