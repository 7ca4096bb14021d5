"""Two checkpoints in a terminal: a table by layer, and what the comparison shows in words."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdepth.probing.positions import INSTRUCTION, LAST
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.checkpoints.paired import AUROC, MARGIN, RIGHT, read_paired
from jaxdepth.study.checkpoints.run import AGAINST, BASE, CONTROL, DANGEROUS
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.summary import words
from jaxdepth.study.wording import runs_of_exits

BETWEEN = f"{DANGEROUS} - {CONTROL}"
LEVEL = 0.05  # of p-values that are adjusted over layers
# How the differences between checkpoints are written: scale, decimals, unit.
_UNITS = {AUROC: (1, 3, "AUROC"), RIGHT: (100, 0, "points"), MARGIN: (1, 2, "nats")}


def print_against(out: str | Path, console: Console | None = None) -> None:
    """Prints AUROCs of both checkpoints by layer at one position, and the findings."""
    console = console or Console()
    rows = read_paired(Path(out))
    position = main_position(rows)
    table = Table(title=f"AUROC read at {position}, {BASE} -> {AGAINST}")
    table.add_column("layer", justify="right")
    for domain in (DANGEROUS, CONTROL):
        table.add_column(domain, no_wrap=True)
    table.add_column("gain of dangerous over control", no_wrap=True)
    cells = {(r["domain"], r["layer"]): r for r in rows if r["position"] == position}
    for layer in sorted({layer for _, layer in cells if layer is not None}):
        sides = (cells[domain, layer] for domain in (DANGEROUS, CONTROL))
        gain = cells[BETWEEN, layer]
        star = " *" if gain["p_holm"] < LEVEL else ""
        told = (f"{r[BASE]:.3f} -> {r[AGAINST]:.3f}" for r in sides)
        table.add_row(str(layer), *told, change_of(gain, unit=False) + star)
    table.caption = f"[95% interval]; * Holm-adjusted over layers, p < {LEVEL}"
    console.print(table)
    for line in findings(out):
        console.print(line, soft_wrap=True)


def findings(out: str | Path) -> list[str]:
    """What a comparison shows, claim by claim, computed from its table."""
    rows = read_paired(Path(out))
    lines = sharper(rows)
    if any(r["measure"] == RIGHT for r in rows):
        lines += knowledge(rows)
    return lines


def sharper(rows: list[dict]) -> list[str]:
    """C10: against - base in AUROC, in each domain and between them."""
    lines = ["C10, safety training sharpens the dangerous domain (against - base, mean of layers):"]
    for position in dict.fromkeys(r["position"] for r in rows if r["measure"] == AUROC):
        here = [r for r in rows if r["position"] == position]
        mean = {r["domain"]: r for r in here if r["layer"] is None}
        told = "; ".join(
            f"{domain} {mean[domain][BASE]:.3f} -> {mean[domain][AGAINST]:.3f}, "
            f"{change_of(mean[domain])}"
            for domain in (DANGEROUS, CONTROL)
        )
        lines.append(
            f"  at {position}: {told}; {BETWEEN} {change_of(mean[BETWEEN])}, Holm-adjusted "
            f"p < {LEVEL} at layers {apart(here, BETWEEN)}"
        )
    return lines


def knowledge(rows: list[dict]) -> list[str]:
    """C12: facts that the other checkpoint no longer reads out, at full depth and on the way."""
    depth = max(r["layer"] for r in rows if r["measure"] == RIGHT and r["layer"] is not None)
    lines = ["C12, suppression degrades facts (right answer ranks first, against - base):"]
    for domain in dict.fromkeys(r["domain"] for r in rows if r["measure"] == RIGHT):
        here = [r for r in rows if r["domain"] == domain]
        at = {(r["measure"], r["layer"]): r for r in here}
        last, mean = at[RIGHT, depth], at[RIGHT, None]
        shares = ""
        if " - " not in domain:
            shares = f"{last[BASE]:.0%} -> {last[AGAINST]:.0%} (n={last['n']}), "
        lines.append(
            f"  {domain}: at exit {depth} {shares}{change_of(last)}, margin "
            f"{change_of(at[MARGIN, depth])}; mean of exits {change_of(mean)}; Holm-adjusted "
            f"p < {LEVEL} at exits {apart([r for r in here if r['measure'] == RIGHT], domain)}"
        )
    return lines


def hedging(c: Compared) -> list[str]:
    """C12: caveats in place of an answer, and gibberish beside them, by group of prompts."""
    full = c.exits[-1]
    lines = [f"C12, hedging grows (partial answers; paired, exits {words(c, c.exits)}):"]
    for group in sorted(set(c.groups_N)):
        at_full = " -> ".join(f"{c.share(m, group, full, Outcome.PARTIAL):.0%}" for m in c.models)
        changes = [
            f"{outcome} {c.difference(AGAINST, BASE, group, c.exits, outcome):points}"
            for outcome in (Outcome.PARTIAL, Outcome.REFUSE, Outcome.DEGENERATE)
        ]
        lines.append(
            f"  {group} (n={c.group(group).sum()}): hedged at exit {full} {at_full}; against - "
            f"base, mean of exits: {', '.join(changes)}"
        )
    return lines


def main_position(rows: list[dict]) -> str:
    """The position that is shown first: the prompt's last token, if it was probed."""
    positions = list(dict.fromkeys(r["position"] for r in rows if r["measure"] == AUROC))
    return next((p for p in (LAST, INSTRUCTION) if p in positions), positions[0])


def change_of(row: dict, unit: bool = True) -> str:
    """The difference of a row with its interval."""
    scale, places, name = _UNITS[row["measure"]]
    value, low, high = (f"{scale * row[k]:+.{places}f}" for k in ("difference", "low", "high"))
    return f"{value} [{low}, {high}]" + (f" {name}" if unit else "")


def apart(rows: list[dict], domain: str) -> str:
    """The layers of a domain at which the checkpoints differ."""
    mine = [r for r in rows if r["domain"] == domain and r["layer"] is not None]
    layers = np.array([r["layer"] for r in mine])
    return runs_of_exits(layers, np.array([r["p_holm"] < LEVEL for r in mine]))


def expected(what: str, row: dict, sign: int) -> str:
    """Whether a difference has the sign that was expected: held, refuted, or open.

    Args:
        what: what was expected, in words.
        row: of `against`.
        sign: 1 where growth was expected, -1 where loss was.
    """
    ends = {sign * row[k] > 0 for k in ("low", "high")}
    verdict = "open" if len(ends) == 2 else "held" if ends == {True} else "refuted"
    return f"  {verdict}: {what}: {change_of(row)}"


def mean_row(rows: list[dict], measure: str, domain: str, position: str | None = None) -> dict:
    """The row with the mean over layers or exits."""
    wanted = measure, domain, position, None
    return next(r for r in rows if (r["measure"], r["domain"], r["position"], r["layer"]) == wanted)
