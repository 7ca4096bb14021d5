"""Two checkpoints in a terminal: a table by layer, and what the comparison shows in words."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxdepth.probing.positions import INSTRUCTION, LAST
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.checkpoints.paired import estimate, layers_of, mean_of, read_paired
from jaxdepth.study.checkpoints.tables import (
    AGAINST,
    AUROC,
    BASE,
    CONTROL,
    DANGEROUS,
    DANGEROUS_MINUS_CONTROL,
    MARGIN,
    NEIGHBOURING_MINUS_GENERAL,
    RIGHT,
)
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.summary import words
from jaxdepth.study.wording import runs_of_exits

LEVEL = 0.05  # of p-values that are adjusted over layers
# Every outcome but an answer to the point, and undetermined.
_NOT_ANSWERED = (Outcome.PARTIAL, Outcome.REFUSE, Outcome.OFF_TOPIC, Outcome.DEGENERATE)


def print_against(out: str | Path, console: Console | None = None) -> None:
    """Print AUROCs of both checkpoints by layer at one position, and the findings."""
    console = console or Console()
    rows = read_paired(out)
    position = main_position(rows)
    table = Table(title=f"AUROC of probes at {position}, {BASE} -> {AGAINST}")
    table.add_column("layer", justify="right")
    for domain in (DANGEROUS, CONTROL):
        table.add_column(domain, no_wrap=True)
    table.add_column("gain of dangerous over control", no_wrap=True)
    sides = [layers_of(rows, AUROC, domain, position) for domain in (DANGEROUS, CONTROL)]
    gains = layers_of(rows, AUROC, DANGEROUS_MINUS_CONTROL, position)
    for layer, gain in gains.iterrows():
        aurocs = (f"{c.loc[layer, BASE]:.3f} -> {c.loc[layer, AGAINST]:.3f}" for c in sides)
        star = " *" if gain["p_holm"] < LEVEL else ""
        table.add_row(str(layer), *aurocs, f"{estimate(gain):+.3f}{star}")
    table.caption = f"[95% interval]; * p < {LEVEL} after Holm over {len(gains)} layers"
    console.print(table)
    for line in findings(rows):
        console.print(line, soft_wrap=True)


def findings(rows: pd.DataFrame) -> list[str]:
    """What a comparison shows, claim by claim, computed from its table."""
    return sharper(rows) + (knowledge(rows) if (rows["measure"] == RIGHT).any() else [])


def sharper(rows: pd.DataFrame) -> list[str]:
    """C10 (safety training sharpens the dangerous domain): AUROC by domain, and between domains."""
    lines = [
        "C10, safety training sharpens the dangerous domain (AUROC of probes, mean over layers, "
        "against - base):"
    ]
    for position in positions_of(rows):
        means = (mean_of(rows, AUROC, domain, position) for domain in (DANGEROUS, CONTROL))
        domains = "; ".join(
            f"{mean['domain']} {mean[BASE]:.3f} -> {mean[AGAINST]:.3f}, {difference_of(mean)}"
            for mean in means
        )
        gain = DANGEROUS_MINUS_CONTROL
        lines.append(
            f"  at {position}: {domains}; {gain} "
            f"{difference_of(mean_of(rows, AUROC, gain, position))}, significant "
            f"{significant(layers_of(rows, AUROC, gain, position), 'layers')}"
        )
    return lines


def knowledge(rows: pd.DataFrame) -> list[str]:
    """C12 (suppression degrades facts): knowledge by domain, at full depth and over exits."""
    lines = [
        "C12, suppression degrades facts (share of questions whose right answer ranks first, "
        "against - base):"
    ]
    for domain in rows.loc[rows["measure"] == RIGHT, "domain"].unique():
        right, margin = (layers_of(rows, measure, domain) for measure in (RIGHT, MARGIN))
        depth = right.index[-1]
        full = right.loc[depth]
        shares = ""
        if domain != NEIGHBOURING_MINUS_GENERAL:
            shares = f"{full[BASE]:.0%} -> {full[AGAINST]:.0%} (n={full['n']}), "
        lines.append(
            f"  {domain}: at exit {depth} {shares}{difference_of(full)}, margin "
            f"{difference_of(margin.loc[depth])}; mean over exits "
            f"{difference_of(mean_of(rows, RIGHT, domain))}; significant "
            f"{significant(right, 'exits')}"
        )
    return lines


def hedging(c: Compared) -> list[str]:
    """C12 (suppression adds hedging): partial, refused, off-topic and degenerate answers."""
    full = c.exits[-1]
    lines = [
        "C12, hedging grows (share of partial answers, paired by prompt, exits "
        f"{words(c, c.exits)}):"
    ]
    for group in c.groups:
        at_full = " -> ".join(f"{c.share(m, group, full, Outcome.PARTIAL):.0%}" for m in c.models)
        changes = [
            f"{outcome} {c.difference(AGAINST, BASE, group, c.exits, outcome):points}"
            for outcome in _NOT_ANSWERED
        ]
        lines.append(
            f"  {group} (n={c.count(group)}): hedged at exit {full} {at_full}; against - "
            f"base, mean over exits: {', '.join(changes)}"
        )
    return lines


def positions_of(rows: pd.DataFrame) -> list[str]:
    """The positions that were probed."""
    return rows.loc[rows["measure"] == AUROC, "position"].unique().tolist()


def main_position(rows: pd.DataFrame) -> str:
    """The position that is shown first: the prompt's last token, if it was probed."""
    positions = positions_of(rows)
    return next((p for p in (LAST, INSTRUCTION) if p in positions), positions[0])


def difference_of(row: pd.Series) -> str:
    """The difference in a row of `against`, with its interval and unit."""
    e = estimate(row)
    formats = {AUROC: f"{e:+.3f} AUROC", RIGHT: f"{e:points}", MARGIN: f"{e:+.2f} nats"}
    return formats[row["measure"]]


def significant(curve: pd.DataFrame, places: str) -> str:
    """The layers or exits of a curve at which the checkpoints differ, with the family of tests."""
    runs = runs_of_exits(curve.index.to_numpy(), (curve["p_holm"] < LEVEL).to_numpy())
    return f"(p < {LEVEL} after Holm over {len(curve)} {places}) at {places} {runs}"


def expected(what: str, row: pd.Series, sign: int) -> str:
    """Whether a difference has the expected sign: supported, refuted, or open.

    Args:
        what: the expectation in words.
        row: of `against`.
        sign: 1 where growth was expected, -1 where loss was.
    """
    difference = estimate(row)
    if np.isnan(difference.low):
        return f"  open, of too few prompts: {what}: {difference_of(row)}"
    signs = {bool(sign * bound > 0) for bound in (difference.low, difference.high)}
    verdict = "open" if len(signs) == 2 else "supported" if signs == {True} else "refuted"
    return f"  {verdict}: {what}: {difference_of(row)}"
