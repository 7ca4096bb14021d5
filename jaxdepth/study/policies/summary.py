"""Exit policies in a terminal: a table by rule, and a sentence for each policy."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxdepth.depth.policies import Policy
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.policies.choice import ANY
from jaxdepth.study.policies.rates import AGREEMENT, MEAN_EXIT, MEAN_LAYERS
from jaxdepth.study.policies.tables import CHOSEN_RULES, MATCHED, POLICIES
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.windows import Competence, competence_of

_COLUMNS = {  # metric: heading and format
    MEAN_EXIT: ("mean exit", ".1f"),
    MEAN_LAYERS: ("layers", ".1f"),
    AGREEMENT: ("agrees", ".0%"),
    Outcome.REFUSE: ("refuse", ".0%"),
    Outcome.COMPLY: ("comply", ".0%"),
    Outcome.OFF_TOPIC: ("off-topic", ".0%"),
    Outcome.DEGENERATE: ("degenerate", ".0%"),
}


def print_policies(run_path: str | Path, console: Console | None = None) -> None:
    """Print a table by rule and label, and the findings, on standard output."""
    console = console or Console()
    rates = read_frame(run_path, POLICIES)
    values = rates.set_index(["label", "rule", "metric"])["value"]
    competent = competence_of(rates.drop_duplicates("rule").set_index("rule"))
    for label in rates["label"].unique():
        table = Table(title=f"Exit of each token by a policy: {label} prompts")
        table.add_column("rule")
        table.add_column("can answer")
        for heading, _ in _COLUMNS.values():
            table.add_column(heading, justify="right")
        for rule in rates["rule"].unique():
            cells = [
                f"{values[label, rule, metric]:{spec}}" for metric, (_, spec) in _COLUMNS.items()
            ]
            table.add_row(rule, competent[rule], *cells)
        console.print(table)
    for line in policy_findings(run_path):
        console.print(line, soft_wrap=True)


_CONTRASTS = (  # label, outcome, in words
    ("harmful", Outcome.REFUSE, "refuses harmful prompts"),
    ("harmful", Outcome.COMPLY, "answers harmful prompts to the point"),
    ("harmless", Outcome.COMPLY, "answers harmless prompts to the point"),
)


def policy_findings(run_path: str | Path) -> list[str]:
    """A sentence for each policy, label and outcome: how it differs from static truncation.

    The rules that are named differ by a band that holds for all rules at once; the size of a
    difference is that of a rule chosen on other prompts.
    """
    matched = read_frame(run_path, MATCHED).set_index(["policy", "label", "metric"])
    chosen = read_frame(run_path, CHOSEN_RULES).set_index(["policy", "label", "metric"])
    rates = read_frame(run_path, POLICIES).drop_duplicates("rule")
    cannot = _list_rules(rates[competence_of(rates) == Competence.NO])
    lines = [
        "Rules that cannot answer harmless prompts, whose unanswered harmful ones show no safety: "
        f"{cannot}."
    ]
    for policy in Policy:
        for label, outcome, verb in _CONTRASTS:
            key = (str(policy), label, str(outcome))
            if key not in matched.index:
                continue
            group = matched.loc[[key]].reset_index(drop=True)
            line = (
                f"{policy} against static truncation at the same mean depth (95% band over all "
                f"{group['rules'].iloc[0]} rules): {verb} more often at "
                f"{_list_rules(group[group['band_low'] > 0])}, less often at "
                f"{_list_rules(group[group['band_high'] < 0])}"
            )
            if key in chosen.index:
                line += f"; {_chosen_in_words(chosen.loc[[key]].iloc[0])}"
            lines.append(f"{line}.")
    for label, outcome, verb in _CONTRASTS:
        key = (ANY, label, str(outcome))
        if key in chosen.index:
            row = chosen.loc[[key]].iloc[0]
            lines.append(f"Of all policies, what differs most ({verb}): {_chosen_in_words(row)}.")
    return lines


def _chosen_in_words(row: pd.Series) -> str:
    """The difference of a rule that other prompts chose."""
    difference = Estimate(row["difference"], row["low"], row["high"], n=int(row["n"]))
    return (
        f"{row['rule']}, chosen from {row['rules']} on {row['n_choosing']} other prompts: "
        f"{difference:points} at "
        f"{row['mean_layers']:.1f} layers on {row['n']} prompts"
    )


def _list_rules(group: pd.DataFrame) -> str:
    return ", ".join(group["rule"]) or "no rule"
