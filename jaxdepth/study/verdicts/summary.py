"""Verdicts in a terminal: a table by exit, and what it shows in words."""

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.verdicts.cost import COST
from jaxdepth.study.verdicts.scores import PAIRED, Score, Scores
from jaxdepth.study.wording import runs_of_exits


def print_verdicts(run: Run, console: Console | None = None) -> None:
    """Prints the table and the findings on standard output."""
    console = console or Console()
    scores = Scores(run.path)
    direct = "cut 0" in scores.sources
    table = Table(
        title="Verdicts by exit: balanced accuracy [95% interval, clustered by pair],\n"
        "over-refusal, probability that fell on the three words, answers that follow the verdict"
    )
    table.add_column("exit", justify="right")
    names = {"cut 0": "no thought", "thought": "after the thought"}
    for source, name in names.items():
        if source == "thought" or direct:
            table.add_column(name, justify="right", no_wrap=True)
    for name in ("over-refusal", "mass", "follow"):
        table.add_column(name, justify="right")
    columns = [scores.of(s, "balanced_accuracy") for s in names if s == "thought" or direct]
    rest = [
        scores.of("thought", metric) for metric in ("over_refusal", "label_mass", "answer_follows")
    ]
    for e, exit in enumerate(scores.exits):
        cells = [_with_interval(c, e) for c in columns]
        cells += ["" if np.isnan(c.value[e]) else f"{c.value[e]:.0%}" for c in rest]
        table.add_row(str(exit), *cells)
    console.print(table)
    for line in findings(run, scores):
        console.print(line, soft_wrap=True)
    if run.finished(COST):
        _print_cost(run, console)


def findings(run: Run, scores: Scores) -> list[str]:
    """What the scores show, one sentence each, computed from them."""
    exits, lines = np.array(scores.exits), []
    thought = scores.of("thought", "balanced_accuracy")
    lines.append(
        f"Verdicts are better than chance (interval above 50%) at exits "
        f"{runs_of_exits(exits, thought.low > 0.5)}, worse at "
        f"{runs_of_exits(exits, thought.high < 0.5)}."
    )
    paired = read_table(run.path, PAIRED).to_pylist()
    if paired:
        sure = [r["exit"] for r in paired if r["p_holm"] < 0.05]
        gains = [r for r in paired if r["right_only_with_thought"] > r["right_only_without"]]
        lines.append(
            f"More verdicts are right with the thought than without at {len(gains)} of "
            f"{len(paired)} exits; the two differ (exact McNemar, Holm over exits, p < 0.05) at "
            f"exits {runs_of_exits(exits, np.isin(exits, sure))}."
        )
    last = len(exits) - 1
    for source, says in (
        ("cut 0", "the verdict before the thought is the final one"),
        ("swapped", "the verdict stays the same upon another prompt's thought"),
    ):
        if source in scores.sources:
            agree = scores.of(source, "agrees_with_thought")
            lines.append(f"At exit {exits[-1]}, {says} in {_with_interval(agree, last)}.")
    follows = [scores.of(f"forced {v}", "answer_follows") for v in VERDICTS]
    if any(np.isfinite(f.value[last]) for f in follows):
        said = ", ".join(
            f"{v} {_with_interval(f, last)}" for v, f in zip(VERDICTS, follows, strict=True)
        )
        lines.append(f"At exit {exits[-1]}, the answer does what a forced verdict says in: {said}.")
    before, after = (scores.of("thought", m) for m in ("ece_unscaled", "ece_scaled"))
    heat = scores.of("thought", "temperature").value[last]
    if np.isfinite(heat):
        lines.append(
            f"At exit {exits[-1]}, a temperature of {heat:.2f} fits half of the prompts; on the "
            f"other half the calibration error is {_with_interval(before, last)} before and "
            f"{_with_interval(after, last)} after."
        )
    most = [s for s in scores.sources if s.startswith("majority of ")]
    if most:
        one, all_ = (scores.of(s, "balanced_accuracy") for s in (most[0], most[-1]))
        lines.append(
            f"At exit {exits[-1]}, balanced accuracy with one vote is {_with_interval(one, last)}, "
            f"by the {most[-1]} votes {_with_interval(all_, last)}."
        )
    return lines


def _print_cost(run: Run, console: Console) -> None:
    table = Table(title="Cost of all exits together, per prompt and exit, and against answering")
    for name in ("program", "tokens", "before the first visible one", "time (range)"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for row in read_table(run.path, COST).to_pylist():
        table.add_row(
            row["program"],
            f"{row['tokens']:.0f}",
            f"{row['before_visible']:.0f}",
            f"{row['time_ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f})",
        )
    console.print(table)


def _with_interval(score: Score, place: int) -> str:
    if np.isnan(score.value[place]):
        return "-"
    return f"{score.value[place]:.0%} [{score.low[place]:.0%}, {score.high[place]:.0%}]"
