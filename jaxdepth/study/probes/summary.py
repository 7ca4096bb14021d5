"""A finished probe run in a terminal: a table by layer, and what it shows in words."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdepth.probing.positions import INSTRUCTION, LAST
from jaxdepth.study.probes.changes import CHANGES
from jaxdepth.study.probes.evaluate import (
    CHOSEN,
    CONTENT,
    DIFFERENCE,
    LOGISTIC,
    OWN,
    PROBES,
    SHUFFLED,
    WORDS,
)
from jaxdepth.study.probes.knows_does import KNOWS_DOES
from jaxdepth.study.probes.thoughts import ALONG, thought_findings
from jaxdepth.study.run_directory import read_table


def print_probes(run_path: str | Path, console: Console | None = None) -> None:
    """Prints AUROCs by layer at the instruction's and the prompt's last token, and the findings.

    `means` is the probe of the difference of means, `shuffled` a probe of labels that mean nothing.
    """
    console = console or Console()
    run_path = Path(run_path)
    rows = [r for r in read_table(run_path, PROBES).to_pylist() if r["target"] == CONTENT]
    positions = list(dict.fromkeys(r["position"] for r in rows if r["position"]))
    main = [name for name in positions if name in (INSTRUCTION, LAST)]
    sets = list(dict.fromkeys(r["set"] for r in rows))
    for position in main or positions[:1]:
        here = [r for r in rows if r["position"] == position and r["layer"] is not None]
        table = Table(title=f"Harmful or not, read at {position}: AUROC [95% interval]")
        table.add_column("layer", justify="right")
        for name in sets:
            table.add_column("own prompts" if name == OWN else f"transfer to {name}", no_wrap=True)
        table.add_column("means", justify="right", no_wrap=True)
        table.add_column("shuffled", justify="right", no_wrap=True)
        for layer in sorted({r["layer"] for r in here}):
            cells = {(r["probe"], r["set"]): r for r in here if r["layer"] == layer}
            table.add_row(
                str(layer),
                *(interval_of(cells[LOGISTIC, name]) for name in sets),
                f"{cells[DIFFERENCE, OWN]['auroc']:.3f}",
                f"{cells[SHUFFLED, OWN]['auroc']:.3f}",
            )
        console.print(table)
    for line in findings(run_path):
        console.print(line, soft_wrap=True)


def interval_of(row: dict) -> str:
    """An AUROC with its interval."""
    return f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def findings(run_path: str | Path) -> list[str]:
    """What a run shows at the instruction's and the prompt's last token, one sentence each.

    The other positions are in the tables; where a run has neither of the two, all are told.
    """
    run_path = Path(run_path)
    lines = []
    rows = read_table(run_path, PROBES).to_pylist()
    positions = {r["position"] for r in rows if r["position"]}
    told = positions & {INSTRUCTION, LAST} or positions
    rows = [r for r in rows if r["position"] is None or r["position"] in told]
    words = {(r["target"], r["set"]): r for r in rows if r["probe"] == WORDS}
    for row in (r for r in rows if r["probe"] == CHOSEN):
        base = words[row["target"], OWN]
        lines.append(
            f"{row['target']} at {row['position']}, layer chosen on validation "
            f"({_span(row['chosen_layers'])}): AUROC {interval_of(row)}, TPR at 1% FPR "
            f"{row['tpr_at_1_fpr']:.0%}; bag of words {interval_of(base)}."
        )
    for name in dict.fromkeys(r["set"] for r in rows if r["set"] != OWN):
        there = [r for r in rows if r["set"] == name and r["probe"] == LOGISTIC]
        best = max(there, key=lambda r: r["auroc"])
        lines.append(
            f"Transferred to {name} it is at most {interval_of(best)} ({best['position']}, layer "
            f"{best['layer']}; the best of all, so too high), bag of words "
            f"{interval_of(words[CONTENT, name])}."
        )
    for row in read_table(run_path, CHANGES).to_pylist():
        if all(_position(curve) in {None, *told} for curve in (row["curve"], row["after"] or "")):
            lines.append(_change(row))
    if (run_path / f"{KNOWS_DOES}.parquet").is_file():
        lines += _quadrants(read_table(run_path, KNOWS_DOES).to_pylist())
    if (run_path / f"{ALONG}.parquet").is_file():
        lines += thought_findings(run_path)
    return lines


def _position(curve: str) -> str | None:
    """The position in the name of a curve; None for that of refusal, which has none."""
    _, at, rest = curve.partition(" at ")
    return rest.partition(",")[0] if at else None


def _change(row: dict) -> str:
    bounds = f"[{row['low']}, {row['high']}]"
    if row["after"] is not None:
        return f"{row['curve']} comes {row['layer']} {bounds} layers after {row['after']}."
    if row["kind"] == "none":
        return f"{row['curve']}: no rise over depth (p = {row['p_rise_holm']:.2g})."
    how = "jumps at layer" if row["kind"] == "jump" else "rises gradually, around layer"
    return (
        f"{row['curve']} {how} {row['layer']} {bounds}, by {row['rise']:+.2f} "
        f"[{row['rise_low']:+.2f}, {row['rise_high']:+.2f}]."
    )


def _quadrants(rows: list[dict]) -> list[str]:
    lines = []
    positions = {r["position"] for r in rows}
    position = LAST if LAST in positions else rows[-1]["position"]
    for quadrant in ("knows but complies", "refuses without knowing"):
        mine = [
            r
            for r in rows
            if (r["position"], r["label"], r["quadrant"]) == (position, "harmful", quadrant)
        ]
        most, last = max(mine, key=lambda r: r["value"]), mine[-1]
        lines.append(
            f"{quadrant.capitalize()}: {_share(last)} of {last['n']} harmful prompts at exit "
            f"{last['exit']}, at most {_share(most)} at exit {most['exit']} (probe at {position})."
        )
    return lines


def _share(row: dict) -> str:
    return f"{row['value']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"


def _span(layers: list[int]) -> str:
    low, high = int(np.min(layers)), int(np.max(layers))
    return f"layer {low}" if low == high else f"layers {low}-{high}"
