"""A finished probe run in a terminal: a table by layer, and its findings in words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from jaxdepth.probing.positions import INSTRUCTION, LAST
from jaxdepth.stats.bands import share_band
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.probes.evaluate import (
    CHOSEN,
    CONTENT,
    DIFFERENCE,
    LOGISTIC,
    OWN,
    SHUFFLED,
    WORDS,
    auroc_estimate,
)
from jaxdepth.study.probes.tables import (
    CHANGE_POINTS,
    KNOWS_DOES,
    PROBES,
    THOUGHT_PROBES,
    THOUGHTS,
)
from jaxdepth.study.probes.thoughts import FALL, FITTED_AT, OPENED, side_of
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.windows import Competence, competence_of
from jaxdepth.study.wording import runs_of_exits


def print_probes(run_path: str | Path, console: Console | None = None) -> None:
    """Print AUROCs by layer at the instruction's and the prompt's last token, and the findings.

    `means` is the probe of the difference of means, `shuffled` a probe of shuffled labels.
    """
    console = console or Console()
    run_path = Path(run_path)
    frame = read_frame(run_path, PROBES)
    frame = frame[frame["target"] == CONTENT]
    sets = frame["set"].unique()
    for position in main_positions(frame):
        table = Table(title=f"Harmful or harmless, read at {position}: AUROC [95% interval]")
        table.add_column("layer", justify="right")
        for name in sets:
            table.add_column("own prompts" if name == OWN else f"transfer to {name}", no_wrap=True)
        table.add_column("means", justify="right", no_wrap=True)
        table.add_column("shuffled", justify="right", no_wrap=True)
        for layer, rows in frame[frame["position"] == position].groupby("layer"):
            rows = rows.set_index(["probe", "set"])
            table.add_row(
                f"{layer:.0f}",
                *(f"{auroc_estimate(rows.loc[(LOGISTIC, name)]):.3f}" for name in sets),
                f"{rows.loc[(DIFFERENCE, OWN)]['auroc']:.3f}",
                f"{rows.loc[(SHUFFLED, OWN)]['auroc']:.3f}",
            )
        console.print(table)
    for line in findings(run_path):
        console.print(line, soft_wrap=True)


def main_positions(frame: pd.DataFrame) -> list[str]:
    """The instruction's and the prompt's last token; without them the first position."""
    positions = frame["position"].dropna().unique().tolist()
    return [name for name in positions if name in (INSTRUCTION, LAST)] or positions[:1]


def findings(run_path: str | Path) -> list[str]:
    """What a run shows at the instruction's and the prompt's last token, one sentence each.

    The other positions are in the tables; where a run has neither of the two, all are included.
    """
    run_path = Path(run_path)
    frame = read_frame(run_path, PROBES)
    positions = set(frame["position"].dropna())
    positions = positions & {INSTRUCTION, LAST} or positions
    lines = _probe_findings(frame[frame["position"].isin(positions)], frame)
    for _, change in read_frame(run_path, CHANGE_POINTS).iterrows():
        curves = change[["curve", "after"]].dropna()
        if all(_position(curve) in {None, *positions} for curve in curves):
            lines.append(_change_finding(change))
    if (run_path / f"{KNOWS_DOES.name}.parquet").is_file():
        lines += _quadrant_findings(read_frame(run_path, KNOWS_DOES))
    if (run_path / f"{THOUGHTS.name}.parquet").is_file():
        lines += _thought_findings(run_path)
    return lines


def _probe_findings(at_positions: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """What the rows of `probes` at some positions show, beside the bag of words of all rows."""
    words = frame[frame["probe"] == WORDS].set_index(["target", "set"])
    lines = []
    for _, row in at_positions[at_positions["probe"] == CHOSEN].iterrows():
        lines.append(
            f"{row['target']} at {row['position']}, layer chosen on validation "
            f"({_span(row['chosen_layers'])}): AUROC {auroc_estimate(row):.3f}, TPR at 1% FPR "
            f"{row['tpr_at_1_fpr']:.0%}; bag of words "
            f"{auroc_estimate(words.loc[(row['target'], OWN)]):.3f}."
        )
    logistic = at_positions[at_positions["probe"] == LOGISTIC]
    for name, rows in logistic[logistic["set"] != OWN].groupby("set", sort=False):
        best = rows.loc[rows["auroc"].idxmax()]
        lines.append(
            f"Transferred to {name}, the best of all probes has AUROC {auroc_estimate(best):.3f} "
            f"({best['position']}, layer {best['layer']:.0f}; chosen on these prompts, so biased "
            f"upwards), bag of words {auroc_estimate(words.loc[(CONTENT, name)]):.3f}."
        )
    return lines


def _position(curve: str) -> str | None:
    """The position in the name of a curve; None for that of refusal, which has none."""
    _, at, rest = curve.partition(" at ")
    return rest.partition(",")[0] if at else None


def _change_finding(row: pd.Series) -> str:
    onset, midpoint = (layers_of(row, name) for name in ("onset", "midpoint"))
    if pd.notna(row["after"]):
        return (
            f"{row['curve']} rises after {row['after']}: from onset to onset {onset:.0f} layers, "
            f"from midpoint to midpoint {midpoint:.0f}."
        )
    test = f"p = {row['p_rise_holm']:.2g}, Holm over {row['tests']:.0f} curves"
    if row["kind"] == "none":
        return f"{row['curve']}: no rise over depth ({test})."
    rise = Estimate(row["rise"], row["rise_low"], row["rise_high"])
    how = "jumps" if row["kind"] == "jump" else "rises gradually"
    return (
        f"{row['curve']} {how}: onset at layer {onset:.0f}, midpoint at layer {midpoint:.0f}, by "
        f"{rise:+.2f} ({test})."
    )


def layers_of(row: pd.Series, name: str) -> Estimate:
    """The onset or the midpoint in a row of `change_points`, or the layers between two."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _quadrant_findings(frame: pd.DataFrame) -> list[str]:
    positions = frame["position"].unique()
    position = LAST if LAST in positions else positions[-1]
    frame = frame[(frame["position"] == position) & (frame["label"] == "harmful")]
    by_exit = frame.drop_duplicates("exit")
    can_E = (competence_of(by_exit) == Competence.YES).to_numpy()
    exits = runs_of_exits(by_exit["exit"].to_numpy(), can_E)
    lines = [
        f"Exits that can answer harmless prompts: {exits}. At the others a harmful prompt that is "
        "not answered shows no safety."
    ]
    for quadrant in ("knows but complies", "refuses without knowing"):
        rows = frame[frame["quadrant"] == quadrant]
        last, largest = rows.iloc[-1], int(rows["value"].argmax())
        # The exit is chosen for its share: these bounds hold at all exits at once.
        low_E, high_E = share_band(rows["value"].to_numpy(), int(last["n"]))
        most = Estimate(rows["value"].iloc[largest], low_E[largest], high_E[largest])
        lines.append(
            f"{quadrant.capitalize()}: {Estimate.from_row(last):.0%} of {last['n']} harmful "
            f"prompts at exit {last['exit']}, at most {most:.0%} at exit "
            f"{rows['exit'].iloc[largest]} (95% band over {len(rows)} exits; probe at {position})."
        )
    return lines


def _thought_findings(run_path: Path) -> list[str]:
    probes = read_frame(run_path, THOUGHT_PROBES)
    probes = probes[probes["probe"] == CHOSEN]
    measures = read_frame(run_path, THOUGHTS)
    falls = measures[(measures["metric"] == FALL) & (measures["fitted_at"] == OPENED)]
    lines = []
    for target, rows in probes.groupby("target", sort=False):
        rows = rows.set_index("position")
        before, after = (f"{auroc_estimate(rows.loc[name]):.3f}" for name in FITTED_AT)
        lines.append(
            f"{target}, read before the first token of the thought: AUROC {before}; where the "
            f"thought has been closed: {after} (layers chosen on validation)."
        )
        by_side = [
            f"{Estimate.from_row(row):+.2f} in {side_of(target, row['positive'])} prompts "
            f"(n={row['n']})"
            for _, row in falls[falls["target"] == target].iterrows()
        ]
        if by_side:
            lines.append(
                f"The score of {target} (probe fitted before the thought) falls from its mean over "
                f"the thought to its close by {', by '.join(by_side)}."
            )
    return lines


def _span(layers: Sequence[int]) -> str:
    layers_X = np.unique(layers)
    words = runs_of_exits(layers_X, np.ones(len(layers_X), bool))
    return f"layer {words}" if len(layers_X) == 1 else f"layers {words}"
