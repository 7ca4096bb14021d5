"""Rates of outcomes by exit with intervals, and refusals paired with full depth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from jaxdepth.errors import InputError
from jaxdepth.refusal.detector import held_out_counts
from jaxdepth.refusal.outcome import BUILT_IN, Outcome
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import holm, wilson
from jaxdepth.study.common_tables import GENERATIONS, check_once
from jaxdepth.study.labelling.corrected import correct_curve
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.curves import DepthCurves
from jaxdepth.study.sweep.outcomes import Outcomes, read_outcomes
from jaxdepth.study.sweep.tables import CURVE, PAIRED, WINDOWS
from jaxdepth.study.sweep.windows import (
    Answered,
    Competence,
    ExitWindows,
    competence_of,
    find_windows,
)

_OUTCOME, _DETECTED = "outcome_", "detected_"  # prefixes of measures in the curve table


@dataclass(frozen=True)
class Rates:
    """Rates of outcomes by label and exit, from the curve table."""

    exits: Int[np.ndarray, " E"]
    labels: tuple[str, ...]  # harmful, harmless and unlabelled: those that there are
    outcomes: dict[tuple[str, str], Estimate]  # by outcome and label; one entry an exit
    detected: dict[tuple[str, str], Estimate]  # by the detector's outcome and the human label

    @classmethod
    def read(cls, run_path: str | Path) -> "Rates":
        """The rates of a finished run with generations.

        Raises:
            InputError: the run is not finished, or damaged.
        """
        curve = read_frame(run_path, CURVE)
        rows = curve[curve["metric"].str.startswith(_OUTCOME)]
        return cls(
            exits=np.unique(rows["exit"].to_numpy(int)),
            labels=tuple(sorted(rows["label"].unique())),
            outcomes=_estimates(curve, _OUTCOME),
            detected={key: e[0] for key, e in _estimates(curve, _DETECTED).items()},
        )

    def of(self, outcome: str, label: str) -> Estimate:
        """The rate of an outcome at every exit."""
        return self.outcomes[outcome, label]

    def count(self, label: str) -> int:
        """The number of prompts of a label."""
        return self.of(Outcome.REFUSE, label).n or 0

    @property
    def detection_error(self) -> str:
        """How often the built-in detector errs, in words; empty where another judge was used."""
        if not self.detected:
            return ""
        refusals = self.detected[Outcome.REFUSE, Outcome.REFUSE]
        partials = self.detected[Outcome.PARTIAL, Outcome.PARTIAL]
        false = self.detected[Outcome.REFUSE, Outcome.COMPLY]
        false_partials = self.detected[Outcome.PARTIAL, Outcome.COMPLY]
        return (
            f"The detector, on models that it was not fitted to, recognises {refusals.value:.0%} "
            f"of {refusals.n} refusals and {partials.value:.0%} of {partials.n} partial refusals;\n"
            f"of {false.n} compliant answers it calls {false.value:.1%} refusals and "
            f"{false_partials.value:.1%} partial."
        )


def _estimates(curve: pd.DataFrame, prefix: str) -> dict[tuple[str, str], Estimate]:
    """The measures with a prefix, by the rest of their name and label."""
    rows = curve[curve["metric"].str.startswith(prefix)]
    return {
        (metric.removeprefix(prefix), label): Estimate(
            *(group[bound].to_numpy() for bound in ("value", "low", "high")),
            n=int(group["n"].iloc[0]),
        )
        for (metric, label), group in rows.groupby(["metric", "label"])
    }


def curve_frame(
    metric: str,
    label: str,
    exits: Sequence[int | None] | Int[np.ndarray, " E"],
    e: Estimate,
    band: tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]] | None = None,
) -> pd.DataFrame:
    """Rows of the curve table: one measure at some exits, with its simultaneous bounds if any."""
    columns = {"value": e.value, "low": e.low, "high": e.high}
    columns |= dict(zip(("band_low", "band_high"), band or (np.nan, np.nan), strict=True))
    exits_E = pd.array(exits, dtype="Int32")
    return pd.DataFrame({"metric": metric, "label": label, "exit": exits_E, "n": e.n, **columns})


def first_token_frames(curves: DepthCurves) -> Iterator[pd.DataFrame]:
    """The first-token curves as rows of the curve table."""
    for metric in ("refusal_log_odds", "agrees_with_full", "kl_to_full"):
        for label, e in getattr(curves, metric).items():
            yield curve_frame(metric, label, curves.exits, e)


def outcome_frames(outcomes: Outcomes) -> Iterator[pd.DataFrame]:
    """Rates of every outcome by label and exit as rows of the curve table."""
    for label in sorted(set(outcomes.labels_N)):
        for outcome in Outcome:
            given = answered(outcomes, label, outcome)
            metric, e = f"{_OUTCOME}{outcome}", given.by_exit()
            yield curve_frame(metric, label, outcomes.exits, e, given.band())


def answered(outcomes: Outcomes, label: str, *which: Outcome) -> Answered:
    """Which answers to the prompts of a label have one of some outcomes, by default comply."""
    has_label_N = outcomes.labels_N == label
    is_outcome_NME = np.isin(outcomes.outcome_NME[has_label_N], which or (Outcome.COMPLY,))
    samples = is_outcome_NME.shape[1]
    return Answered(is_outcome_NME.mean(axis=1), samples, outcomes.clusters_N[has_label_N])


def windows_of(outcomes: Outcomes, rule: Windows) -> ExitWindows:
    """Which exits of a run can answer, and at which harmful prompts are answered."""
    by_label = {label: answered(outcomes, label) for label in sorted(set(outcomes.labels_N))}
    return find_windows(outcomes.exits, by_label, rule)


def detection_frames() -> Iterator[pd.DataFrame]:
    """How often the built-in detector gives each outcome to answers of each human label."""
    for label, counts in held_out_counts().items():
        total = sum(counts.values())
        for outcome, count in counts.items():
            e = Estimate(count / total, *wilson(count, total), n=total)
            yield curve_frame(f"{_DETECTED}{outcome}", label, [None], e)


def paired_frame(outcomes: Outcomes) -> pd.DataFrame:
    """Each exit's refusals against full depth's on the same prompts: the paired table.

    The first sample of each prompt counts: samples of one prompt are not independent.
    """
    refuses_NE = outcomes.outcome_NME[:, 0] == Outcome.REFUSE
    frames = []
    for label in sorted(set(outcomes.labels_N)):
        of_label_N = outcomes.labels_N == label
        early_NE, full_N1 = np.split(refuses_NE[of_label_N], [-1], axis=1)
        only_early_E = (early_NE & ~full_N1).sum(axis=0)
        only_full_E = (~early_NE & full_N1).sum(axis=0)
        clusters_N = outcomes.clusters_N[of_label_N]
        p_E = [cluster_mcnemar(early_N, full_N1[:, 0], clusters_N) for early_N in early_NE.T]
        columns = {
            "label": label,
            "exit": outcomes.exits[:-1],
            "n": len(early_NE),
            "refuses_only_here": only_early_E,
            "refuses_only_at_full_depth": only_full_E,
            "p": p_E,
            "tests": len(p_E),
            "p_holm": holm(p_E),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames)


def read_windows(run_path: str | Path) -> ExitWindows:
    """The windows table of a finished run.

    Raises:
        InputError: the run has none, or is damaged.
    """
    rows = read_frame(run_path, WINDOWS)
    check_once(rows, ["exit"], f"{run_path}: the table {WINDOWS.name}")
    if not {"band_low", "band_high"} <= {*rows.columns}:
        raise InputError(
            f"{run_path}: the table {WINDOWS.name} has no bands: it is of an earlier version, or "
            "damaged; run the command again to another --out"
        )
    labels = [name for name in ("harmless", "harmful") if (rows[f"{name}_n"] != 0).any()]
    one_n = all(rows[f"{name}_n"].nunique(dropna=False) == 1 for name in ("harmless", "harmful"))
    has_numbers = rows[[f"{name}_n" for name in labels]].notna().all(axis=None)
    has_numbers &= rows[[f"{name}_answered" for name in labels]].notna().all(axis=None)
    if not one_n or not has_numbers or not competence_of(rows).isin([*map(str, Competence)]).all():
        raise InputError(
            f"{run_path}: the table {WINDOWS.name} has no counts, no shares or no competence of "
            "some exits: it is damaged, run the command again to another --out"
        )
    return ExitWindows.from_rows(rows.assign(competent=competence_of(rows)))


def write_rates(run: Run, curves: DepthCurves, rule: Windows) -> None:
    """Write the tables curve, windows and, where full depth is one of several exits, paired."""
    frames = [*first_token_frames(curves)]
    if run.finished(GENERATIONS.name):
        outcomes = read_outcomes(run.path)
        frames += outcome_frames(outcomes)
        run.write_table(WINDOWS.name, WINDOWS.from_frame(windows_of(outcomes, rule).rows()))
        if run.record["settings"]["judge"] == BUILT_IN:
            frames += detection_frames()
        if curves.exits[-1] == run.record["facts"]["depth"] and len(curves.exits) > 1:
            run.write_table(PAIRED.name, PAIRED.from_frame(paired_frame(outcomes)))
    curve = correct_curve(pd.concat(frames), run.path)
    run.write_table(CURVE.name, CURVE.from_frame(curve))
