"""A finished sweep in a terminal: a table by exit, and what it shows in words."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdepth.prompts.prompt import UNLABELLED
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.sweep.curves import DepthCurves, pooled
from jaxdepth.study.sweep.outcomes import read_outcomes
from jaxdepth.study.sweep.rates import Rates, answered, read_windows
from jaxdepth.study.sweep.window_words import against_tolerated, window_sentences
from jaxdepth.study.sweep.windows import ExitWindows
from jaxdepth.study.wording import runs_of_exits


def print_curves(curves: DepthCurves, console: Console | None = None) -> None:
    """Print first-token measures by exit, and what they show."""
    console = console or Console()
    table = Table(
        title=f"First token by exit: refusal log-odds of {' and '.join(curves.labels)} prompts,\n"
        "agreement of the top token with full depth, KL to full depth (nats)"
    )
    table.add_column("exit", justify="right")
    for label in curves.labels:
        table.add_column(label, justify="right")
    if curves.difference:
        table.add_column("difference [95% interval]", justify="right", no_wrap=True)
    table.add_column("agrees", justify="right")
    table.add_column("KL", justify="right")
    agree_E, kl_E = pooled(curves.agrees_with_full), pooled(curves.kl_to_full)
    for e, exit_layer in enumerate(curves.exits):
        cells = [str(exit_layer)]
        odds = [curves.refusal_log_odds[label].value[e] for label in curves.labels]
        cells += [_known(value, ".2f") for value in odds]
        if curves.difference:
            cells.append(f"{curves.difference[e]:+.2f}")
        table.add_row(*cells, _known(agree_E[e], ".0%"), _known(kl_E[e], ".2f"))
    console.print(table)
    for line in findings(curves):
        console.print(line, soft_wrap=True)


def _known(value: float, spec: str) -> str:
    """A number in a table; `-` where activations were NaN or infinite."""
    return "-" if np.isnan(value) else format(value, spec)


def findings(curves: DepthCurves) -> list[str]:
    """What first-token measures show, one sentence each."""
    exits, lines = curves.exits, []
    if curves.difference and curves.difference_band:
        difference, band = curves.difference, curves.difference_band
        if np.isfinite(difference.value[-1]):
            lines.append(
                f"At exit {exits[-1]} refusal log-odds are {difference[-1]:+.2f} nats on harmful "
                "prompts against harmless ones (95% interval, clustered by pair)."
            )
        lines.append(
            "Exits where that difference lies above 0 (band over all exits at once, 95%): "
            f"{runs_of_exits(exits, band.low > 0)}; below 0: "
            f"{runs_of_exits(exits, band.high < 0)}."
        )
    early_E = pooled(curves.agrees_with_full)[:-1]
    if np.isfinite(early_E).any():
        best = int(np.nanargmax(early_E))
        lines.append(
            f"Before the deepest exit, agreement with full depth is at most {early_E[best]:.0%} "
            f"(exit {exits[best]})."
        )
    return lines


def print_outcomes(run_path: str | Path, console: Console | None = None) -> None:
    """Print shares of outcomes by exit, and what they show."""
    console = console or Console()
    rates, windows = Rates.read(run_path), read_windows(run_path)
    table = Table(title=f"Outcomes by exit, in % of answers:\n{', '.join(Outcome)}")
    table.add_column("exit", justify="right")
    table.add_column("can answer")
    for label in rates.labels:
        table.add_column(f"{label} (n={rates.count(label)})", justify="right", no_wrap=True)
    table.add_column("verdict")
    for e, exit_layer in enumerate(rates.exits):
        cells = [
            " ".join(f"{100 * rates.of(outcome, label).value[e]:4.0f}" for outcome in Outcome)
            for label in rates.labels
        ]
        verdict = windows.verdict[e] or ""
        table.add_row(str(exit_layer), str(windows.competent[e]), *cells, verdict)
    console.print(table)
    lines = [*window_sentences(windows), *answered_there(run_path, windows)]
    for line in [*lines, *outcome_findings(rates)]:
        console.print(line, soft_wrap=True)
    if rates.detection_error:
        console.print(" ".join(rates.detection_error.split()), soft_wrap=True)


def answered_there(run_path: str | Path, windows: ExitWindows) -> list[str]:
    """The mean over exits that can answer, where there are some before the deepest one."""
    is_there_E = windows.can_answer()
    is_there_E[-1] = False
    if windows.harmful is None or not is_there_E.any():
        return []
    e = answered(read_outcomes(run_path), "harmful").over(is_there_E).estimate
    return [
        f"Harmful prompts answered to the point, mean over the exits before "
        f"{windows.exits[-1]} that can answer: {e:.0%}, "
        f"{against_tolerated(e, windows.unsafe_from)}."
    ]


def outcome_findings(rates: Rates) -> list[str]:
    """What the outcomes show, one sentence each."""
    lines = []
    if UNLABELLED in rates.labels:
        lines.append(
            f"{rates.count(UNLABELLED)} prompts are unlabelled: their outcomes are counted apart, "
            "and no exit is called safe or unsafe by them."
        )
    if "harmful" in rates.labels:
        astray = (Outcome.OFF_TOPIC, Outcome.DEGENERATE)
        off_topic_E, degenerate_E = (rates.of(outcome, "harmful").value for outcome in astray)
        lines.append(
            "Exits where most answers to harmful prompts are degenerate: "
            f"{runs_of_exits(rates.exits, degenerate_E > 0.5)}; off-topic: "
            f"{runs_of_exits(rates.exits, off_topic_E > 0.5)}."
        )
    if "harmless" in rates.labels:
        refuse, partial = (rates.of(o, "harmless") for o in (Outcome.REFUSE, Outcome.PARTIAL))
        lines.append(
            f"Over-refusal: at exit {rates.exits[-1]}, {refuse[-1]:.0%} of harmless prompts are "
            f"refused, {partial.value[-1]:.0%} in part."
        )
    return lines
