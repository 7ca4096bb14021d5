"""What the comparison of arms shows in words, each number with its 95% interval."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.thinking.arms import ARMS, PROBE, training_differences
from jaxdepth.study.thinking.compared import ALL, SWAP, VERDICT, ArmVerdicts
from jaxdepth.study.thinking.rows import (
    AUROC,
    BALANCED,
    CALIBRATION,
    FLIPS,
    FLIPS_OF_ALL,
    GAIN,
    OVER_REFUSAL,
    RECALL,
)
from jaxdepth.study.thinking.run import StudyRuns, UnitRun
from jaxdepth.study.thinking.tables import PROBE_CHOICE, PROBE_SCORES

# The columns that say which verdicts a contrast compares.
_SIDES = ("arm", "source", "against", "against_source")
# Metrics of all prompts; the first two are also shown before full depth and along the thought.
_SHOWN = (
    (BALANCED, "balanced accuracy"),
    (AUROC, "AUROC, whatever the threshold"),
    (RECALL, "recall where 1% of harmless prompts are flagged"),
    (OVER_REFUSAL, "harmless prompts refused in whole or in part"),
    (CALIBRATION, "calibration error (debiased)"),
    ("brier", "Brier score"),
)


class MetricTable:
    """Estimates of the arm_metrics table by arm, source, metric and group."""

    def __init__(self, metrics: pd.DataFrame):
        self._rows = metrics.set_index(["arm", "source", "metric", "group", "exit"])

    def at(
        self, arm: str, metric: str, exit_layer: int, source: str = VERDICT, group: str = ALL
    ) -> Estimate:
        """One estimate; NaN where it was not measured."""
        key = (arm, source, metric, group, exit_layer)
        if key not in self._rows.index:
            return Estimate(np.nan, np.nan, np.nan, n=0)
        row = self._rows.loc[key]
        low, high = (np.nan if pd.isna(row[name]) else float(row[name]) for name in ("low", "high"))
        return Estimate(float(row["value"]), low, high, n=int(row["n"]))


def findings(
    c: ArmVerdicts,
    runs: StudyRuns,
    metrics: pd.DataFrame,
    contrasts: pd.DataFrame,
    command: Callable[[UnitRun], str],
) -> list[str]:
    """Everything that the comparison shows.

    Args:
        c: the verdicts of all arms that were run.
        runs: which were, and which not.
        metrics: the arm_metrics table.
        contrasts: the arm_contrasts table.
        command: the command that runs a unit that was not run.
    """
    table = MetricTable(metrics)
    return [
        *what_was_compared(c, runs),
        *not_run(runs, command),
        *by_arm(c, table),
        *by_exit(c, table),
        *gains(c, contrasts),
        *faithfulness(c, table),
        *along_the_thought(c, table),
        *answers(c, table),
        *bar_lines(runs.probe),
    ]


def what_was_compared(c: ArmVerdicts, runs: StudyRuns) -> Iterator[str]:
    """The prompts, the arms with their seeds, and what the intervals are of."""
    arms = len(c.arms) - (PROBE in c.arms)
    yield (
        f"{_count(arms, 'arm')} and a probe decided on the same prompts at "
        f"{_count(len(c.exits), 'exit')}:"
    )
    for name, is_in_N in c.groups.items():
        harmful, harmless = (int((is_in_N & x_N).sum()) for x_N in (c.harmful_N, ~c.harmful_N))
        yield f"  {name}: {harmful} harmful, {harmless} harmless"
    for arm in c.arms:
        if arm != PROBE:
            yield f"  {arm} ({ARMS[arm].meaning}): {_count(len(c.arms[arm]), 'seed')}"
    several = [arm for arm in c.arms if len(c.arms[arm]) > 1]
    single = [arm for arm in c.arms if len(c.arms[arm]) == 1 and arm != PROBE]
    yield (
        f"Intervals resample {len(np.unique(c.cluster_N))} pairs and single prompts "
        f"{len(c.counts_RN)} times, alike in all arms, so that differences are paired."
    )
    if several:
        yield (
            f"Those of {', '.join(several)} also hold for other training seeds, as far as "
            f"{min(len(c.arms[a]) for a in several)} seeds can tell."
        )
    if single:
        yield f"Those of {', '.join(single)} hold for the one adapter that was tuned."
    adapters = {run.unit: run.adapter for run in runs.units if run.path and run.adapter}
    for line in training_differences(adapters):
        yield f"{line}."


def not_run(runs: StudyRuns, command: Callable[[UnitRun], str]) -> Iterator[str]:
    """A line for each arm and seed that was not run, with the command that runs it."""
    for run in runs.units:
        if run.path is None:
            yield f"not run: {run.unit.name}; to run it: {command(run)}"


def by_arm(c: ArmVerdicts, table: MetricTable) -> Iterator[str]:
    """Every arm at full depth."""
    full = c.exits[-1]
    yield f"At full depth, exit {full}, all prompts:"
    for metric, words in _SHOWN:
        yield f"  {words}: {_each(c.arms, lambda arm: table.at(arm, metric, full))}"  # noqa: B023
    for group in list(c.groups)[1:]:
        metric, words = (BALANCED, "balanced accuracy") if c.has_both(group) else _SHOWN[2]
        if not (c.groups[group] & ~c.harmful_N).any():
            metric, words = "caught", "harmful prompts refused in whole or in part"
        shares = _each(c.arms, lambda arm: table.at(arm, metric, full, group=group))  # noqa: B023
        yield f"  {group}, {words}: {shares}"


def by_exit(c: ArmVerdicts, table: MetricTable) -> Iterator[str]:
    """Balanced accuracy and AUROC of every arm before full depth."""
    if len(c.exits) > 1:
        yield "Before full depth, all prompts:"
    for exit_layer in c.exits[:-1]:
        for metric, words in _SHOWN[:2]:
            shares = _each(c.arms, lambda arm: table.at(arm, metric, exit_layer))  # noqa: B023
            yield f"  exit {exit_layer}, {words}: {shares}"


def gains(c: ArmVerdicts, contrasts: pd.DataFrame) -> Iterator[str]:
    """Differences between arms, paired by prompt, with the prompts that 5 points would need."""
    rows = contrasts[(contrasts["group"] == ALL) & (contrasts["metric"] == BALANCED)]
    if rows.empty:
        return
    yield (
        "Differences of balanced accuracy, paired by prompt (C14, thinking before deciding helps "
        "small models):"
    )
    areas = contrasts[contrasts["metric"] == AUROC].set_index([*_SIDES, "exit"])
    for row in rows[rows["exit"] == c.exits[-1]].to_dict("records"):
        area = _estimate(areas.loc[(*(row[name] for name in _SIDES), row["exit"])].to_dict())
        estimate, needed = _estimate(row), row["n_for_5_points"]
        power = f"; {100 * GAIN:.0f} points would need about {needed:.0f} prompts"
        yield (
            f"  exit {row['exit']}, {_side(row['arm'], row['source'])} - "
            f"{_side(row['against'], row['against_source'])}: {estimate:points} ("
            f"{_count(row['seeds'], 'seed')} and {row['against_seeds']}"
            f"{'' if pd.isna(needed) else power}); first seeds: right only in the first "
            f"{row['right_only_first']:.0f}, only in the second {row['right_only_second']:.0f} of "
            f"{row['n']}, exact McNemar with whole pairs swapped p = {row['p']:.3g}, after Holm "
            f"over {_count(int(row['tests']), 'exit')} {row['p_holm']:.3g}; AUROC {area:points}"
        )


def faithfulness(c: ArmVerdicts, table: MetricTable) -> Iterator[str]:
    """How many verdicts another thought flips."""
    full = c.exits[-1]
    arms = [arm for arm in c.arms if SWAP in c.sources(arm)]
    if arms:
        yield (
            f"Verdicts that the thought of the pair's other prompt flips at exit {full}, of those "
            "whose pair's other prompt has the other verdict (of all prompts with a pair):"
        )
    for arm in arms:
        could, every = (table.at(arm, metric, full, SWAP) for metric in (FLIPS, FLIPS_OF_ALL))
        flipped = f"{could:.0%} of {could.n}" if could.n else "no pair has two verdicts"
        yield f"  {arm}: {flipped} ({every:.0%} of {every.n})"


def along_the_thought(c: ArmVerdicts, table: MetricTable) -> Iterator[str]:
    """Verdicts after truncated thoughts, and the largest step between two lengths."""
    full = c.exits[-1]
    for arm in c.arms:
        cuts = sorted(int(s.removeprefix("cut ")) for s in c.sources(arm) if s.startswith("cut "))
        if not cuts:
            continue
        sources = [*(f"cut {cut}" for cut in cuts), VERDICT]
        names = [*map(str, cuts), "whole"]
        for exit_layer, (metric, words) in itertools.product(c.exits, _SHOWN[:2]):
            at = [table.at(arm, metric, exit_layer, s) for s in sources]
            cells = (f"{name}: {e:.0%}" for name, e in zip(names, at, strict=True))
            yield (
                f"Along the thought, {arm}, {words} at exit {exit_layer} by tokens: "
                f"{'; '.join(cells)}"
            )
        p = [table.at(arm, "p_caution_harmful", full, s).value for s in sources]
        steps = np.diff(p)
        n = int(np.argmax(np.abs(steps)))
        yield (
            f"  the largest step of P(caution) on harmful prompts between neighbouring lengths is "
            f"{100 * steps[n]:+.0f} points, from {names[n]} to {names[n + 1]} tokens (C16, a "
            "refusal cliff)"
        )


def answers(c: ArmVerdicts, table: MetricTable) -> Iterator[str]:
    """Whether answers are what their verdicts say."""
    full = c.exits[-1]
    for arm in c.arms:
        shares = {v: table.at(arm, f"answer_follows_{v}", full) for v in VERDICTS}
        if any(np.isfinite(e.value) for e in shares.values()):
            cells = "; ".join(f"{v.upper()} {e:.0%} of {e.n}" for v, e in shares.items())
            yield f"Answers that are what the verdict says, {arm}, exit {full}: {cells}"


def bar_lines(path: Path) -> Iterator[str]:
    """Which layer and strength the probe chose."""
    choice, scores = read_frame(path, PROBE_CHOICE), read_frame(path, PROBE_SCORES)
    for layer, rows in scores.groupby("layer"):
        best = choice[choice["layer"] == layer].sort_values(["auroc", "strength"]).iloc[-1]
        exits = ", ".join(map(str, sorted(set(rows["exit"]))))
        yield (
            f"The probe before any thought reads layer {layer} for exits {exits}: AUROC "
            f"{best['auroc']:.3f} in folds of the training pairs, the best of {len(choice)} layers "
            "and strengths."
        )


def _each(arms: Iterable[str], estimate_of: Callable[[str], Estimate]) -> str:
    """The estimates of several arms on one line."""
    estimates = {arm: estimate_of(arm) for arm in arms}
    measured = {arm: e for arm, e in estimates.items() if np.isfinite(e.value)}
    return "; ".join(f"{arm} {e:.0%}" for arm, e in measured.items()) or "not measured"


def _estimate(row: dict) -> Estimate:
    low, high = (np.nan if row[name] is None else float(row[name]) for name in ("low", "high"))
    return Estimate(float(row["value"]), low, high, n=int(row["n"]))


def _side(arm: str, source: str) -> str:
    return arm if source == VERDICT else f"{arm} ({source})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
