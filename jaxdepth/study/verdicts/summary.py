"""Verdicts in a terminal: a table by exit, and what it shows, in sentences."""

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.stats.calibration import BAR
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.verdicts.score_table import ScoreTable
from jaxdepth.study.verdicts.tables import COST, PAIRED
from jaxdepth.study.wording import runs_of_exits


def print_verdicts(run: Run, console: Console | None = None) -> None:
    """Print the table, the findings and the costs on standard output."""
    console = console or Console()
    scores = ScoreTable(run.path)
    if not scores.exits:
        console.print("No exit has a verdict: all activations were NaN or infinite.")
        return
    _print_scores(scores, console)
    for line in findings(run, scores):
        console.print(line, soft_wrap=True)
    if run.finished(COST.name):
        _print_cost(run, console)


def _print_scores(scores: ScoreTable, console: Console) -> None:
    table = Table(
        title="Verdicts by exit: balanced accuracy [95% interval, clustered by pair],\n"
        "over-refusal, probability of the three verdict words, answers that follow the verdict"
    )
    table.add_column("exit", justify="right")
    headings = {"cut 0": "no thought", "thought": "after the thought"}
    sources = [source for source in headings if source in scores.sources]
    for source in sources:
        table.add_column(headings[source], justify="right", no_wrap=True)
    for heading in ("over-refusal", "mass", "follow"):
        table.add_column(heading, justify="right")
    accuracies = [scores.estimate(source, "balanced_accuracy") for source in sources]
    shares = [
        scores.estimate("thought", metric)
        for metric in ("over_refusal", "label_mass", "answer_follows")
    ]
    for e, exit_layer in enumerate(scores.exits):
        cells = ["-" if np.isnan(a.value[e]) else f"{a[e]:.0%}" for a in accuracies]
        cells += ["" if np.isnan(s.value[e]) else f"{s.value[e]:.0%}" for s in shares]
        table.add_row(str(exit_layer), *cells)
    console.print(table)


def findings(run: Run, scores: ScoreTable) -> Iterator[str]:
    """What the scores show, one sentence each, computed from them."""
    exits, last = np.array(scores.exits), scores.exits[-1]
    accuracy = scores.estimate("thought", "balanced_accuracy_band")
    yield (
        f"Verdicts are better than chance (95% band over {len(exits)} exits above 50%) at exits "
        f"{runs_of_exits(exits, accuracy.low > 0.5)}, worse at "
        f"{runs_of_exits(exits, accuracy.high < 0.5)}."
    )
    paired = read_frame(run.path, PAIRED)
    if not paired.empty:
        gains = (paired["right_only_with_thought"] > paired["right_only_without"]).sum()
        differs = (paired["p_holm"] < 0.05).to_numpy()
        yield (
            f"More verdicts are right with the thought than without at {gains} of "
            f"{len(paired)} exits; the two differ (exact McNemar, whole pairs swapped, p < 0.05 "
            f"after Holm over {len(paired)} exits) at exits {runs_of_exits(exits, differs)}."
        )
    for source, sentence in (
        ("cut 0", "the verdict before the thought equals the final one"),
        ("swapped", "the verdict after another prompt's thought equals that after its own"),
    ):
        if source in scores.sources:
            agreement = scores.estimate(source, "agrees_with_thought")[-1]
            yield f"At exit {last}, {sentence} in {agreement:.0%}."
    follows = {v: scores.estimate(f"forced {v}", "answer_follows")[-1] for v in VERDICTS}
    if any(np.isfinite(share.value) for share in follows.values()):
        shares = ", ".join(f"{verdict} {share:.0%}" for verdict, share in follows.items())
        yield f"At exit {last}, the answer follows a forced verdict in: {shares}."
    yield from _calibration_findings(scores)
    majorities = [s for s in scores.sources if s.startswith("majority of ")]
    if majorities:
        one, all_ = (
            scores.estimate(source, "balanced_accuracy")[-1]
            for source in (majorities[0], majorities[-1])
        )
        yield (
            f"At exit {last}, balanced accuracy with one vote is {one:.0%}, by the "
            f"{majorities[-1]} votes {all_:.0%}."
        )


def _calibration_findings(scores: ScoreTable) -> Iterator[str]:
    """The calibration error at the last exit, what n can show, and what a temperature changes."""
    last = scores.exits[-1]
    error, p, needed = (
        scores.estimate("thought", metric)[-1]
        for metric in ("calibration_error", "p_calibrated", "n_to_show_calibration")
    )
    if np.isfinite(p.value):
        yield (
            f"At exit {last}, the calibration error of the verdicts' probabilities (root mean "
            f"square over bins, debiased) is {error:.0%}; perfect calibration has p = {p.value:.2g}"
            f" (one test). {_attainable(error.n or 0, needed.value)}"
        )
    temperature = scores.estimate("thought", "temperature").value[-1]
    if np.isfinite(temperature):
        before, after = (
            scores.estimate("thought", f"calibration_error_{x}")[-1] for x in ("unscaled", "scaled")
        )
        yield (
            f"At exit {last}, a temperature of {temperature:.2f} fits half of the prompts; on the "
            f"other half the calibration error is {before:.0%} before and {after:.0%} after."
        )


def _attainable(n: int, needed: float) -> str:
    """Whether so many prompts can show that the calibration error is small."""
    if n < needed:
        return (
            f"With {n} prompts an error below {BAR:.0%} cannot be shown; about {needed:.0f} "
            "prompts would do, if the verdicts were perfectly calibrated."
        )
    return f"With {n} prompts an error below {BAR:.0%} can be shown."


def _print_cost(run: Run, console: Console) -> None:
    table = Table(
        title="Cost of all exits together: tokens per prompt and exit,\n"
        "time relative to answering without a verdict"
    )
    for heading in ("program", "tokens", "before the first visible one", "time (range)"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for row in read_frame(run.path, COST).itertuples():
        table.add_row(
            row.program,
            f"{row.tokens:.0f}",
            f"{row.before_visible:.0f}",
            f"{row.time_ratio:.2f} ({row.low:.2f}-{row.high:.2f})",
        )
    console.print(table)
