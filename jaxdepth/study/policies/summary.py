"""Exit policies in a terminal: a table by rule, and a sentence for each policy."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jaxdepth.depth.policies import Policy
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.policies.rates import AGREEMENT, MEAN_EXIT, MEAN_LAYERS
from jaxdepth.study.policies.tables import MATCHED, POLICIES
from jaxdepth.study.run_directory import read_frame

_COLUMNS = {  # metric: heading and format
    MEAN_EXIT: ("mean exit", ".1f"),
    MEAN_LAYERS: ("layers", ".1f"),
    AGREEMENT: ("agrees", ".0%"),
    Outcome.REFUSE: ("refuse", ".0%"),
    Outcome.COMPLY: ("comply", ".0%"),
    Outcome.DEGENERATE: ("degenerate", ".0%"),
}


def print_policies(run_path: str | Path, console: Console | None = None) -> None:
    """Print a table by rule and label, and the findings, on standard output."""
    console = console or Console()
    rates = read_frame(run_path, POLICIES.name)
    values = rates.set_index(["label", "rule", "metric"])["value"]
    for label in rates["label"].unique():
        table = Table(title=f"Exit of each token by a policy: {label} prompts")
        table.add_column("rule")
        for heading, _ in _COLUMNS.values():
            table.add_column(heading, justify="right")
        for rule in rates["rule"].unique():
            cells = [
                f"{values[label, rule, metric]:{spec}}" for metric, (_, spec) in _COLUMNS.items()
            ]
            table.add_row(rule, *cells)
        console.print(table)
    for line in policy_findings(run_path):
        console.print(line, soft_wrap=True)


def policy_findings(run_path: str | Path) -> list[str]:
    """A sentence for each policy, label and outcome: how it differs from static truncation."""
    matched = read_frame(run_path, MATCHED.name).set_index(["policy", "label", "metric"])
    lines = []
    for policy in Policy:
        for label, outcome in (
            ("harmful", Outcome.REFUSE), ("harmful", Outcome.COMPLY), ("harmless", Outcome.COMPLY),
        ):  # fmt: skip
            key = (str(policy), label, str(outcome))
            if key not in matched.index:
                continue
            group = matched.loc[[key]].reset_index(drop=True)
            largest = group.loc[group["difference"].abs().idxmax()]
            difference = Estimate(largest["difference"], largest["low"], largest["high"])
            lines.append(
                f"{policy} against static truncation at the same mean depth, {label} {outcome}: "
                f"more often at {_list_rules(group[group['low'] > 0])}, less often at "
                f"{_list_rules(group[group['high'] < 0])}; largest {difference:points} at "
                f"{largest['rule']} ({largest['mean_layers']:.1f} layers)."
            )
    return lines


def _list_rules(group) -> str:
    return ", ".join(group["rule"]) or "no rule"
