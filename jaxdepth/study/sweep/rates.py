"""How often each exit does what: outcome rates with intervals, paired with full depth."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxdepth.refusal.detector import held_out_counts
from jaxdepth.refusal.outcome import BUILT_IN, Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import bootstrap_means, holm, interval, mcnemar, wilson
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.sweep.curves import DepthCurves

CURVE_SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("label", pa.string()),
        ("exit", pa.int32()),  # null for what is true of any exit
        ("n", pa.int32()),  # prompts, or labelled answers
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
PAIRED_SCHEMA = pa.schema(
    [
        ("label", pa.string()),
        ("exit", pa.int32()),
        ("n", pa.int32()),
        ("refuses_only_here", pa.int32()),
        ("refuses_only_at_full_depth", pa.int32()),
        ("p", pa.float64()),  # exact McNemar
        ("p_holm", pa.float64()),  # adjusted over the exits of the label
    ]
)


@dataclass(frozen=True)
class Rates:
    """Outcome rates by label and exit, as the curve table has them."""

    exits: np.ndarray
    labels: tuple[str, ...]  # harmful before harmless
    counts: dict[str, int]  # prompts
    estimates: dict[tuple[str, str], Estimate]  # outcome, label
    detected: dict[tuple[str, str], tuple[float, int]]  # outcome, human label: share, answers

    @classmethod
    def read(cls, run_path: str | Path) -> "Rates":
        """The rates of a finished run with generations."""
        table = read_table(run_path, "curve").to_pylist()
        rows = [r for r in table if r["metric"].startswith("outcome_")]
        counts = {r["label"]: r["n"] for r in rows}
        groups: dict[tuple[str, str], list[dict]] = {}
        for row in rows:
            key = row["metric"].removeprefix("outcome_"), row["label"]
            groups.setdefault(key, []).append(row)
        estimates = {
            key: Estimate(*(np.array([r[name] for r in mine]) for name in ("value", "low", "high")))
            for key, mine in groups.items()
        }
        exits = np.array(sorted({r["exit"] for r in rows}))
        detected = {
            (r["metric"].removeprefix("detected_"), r["label"]): (r["value"], r["n"])
            for r in table
            if r["metric"].startswith("detected_")
        }
        return cls(exits, tuple(sorted(counts)), counts, estimates, detected)

    @property
    def detection_error(self) -> str:
        """How often the built-in detector errs, in words; empty where another judge was used."""
        if not self.detected:
            return ""
        found, refusals = self.detected[Outcome.REFUSE, Outcome.REFUSE]
        called, others = self.detected[Outcome.REFUSE, Outcome.COMPLY]
        partly, _ = self.detected[Outcome.PARTIAL, Outcome.COMPLY]
        seen, partials = self.detected[Outcome.PARTIAL, Outcome.PARTIAL]
        return (
            f"The detector on models held out: of {refusals} refusals {found:.0%} are called so, "
            f"of {partials} partials {seen:.0%};\n"
            f"of {others} compliances {called:.1%} are called refusals, {partly:.1%} partials."
        )

    def of(self, outcome: str, label: str) -> Estimate:
        return self.estimates[outcome, label]


def first_token_rows(curves: DepthCurves) -> list[dict]:
    """The first-token curves as rows of the curve table."""
    rows = []
    for metric in ("refusal_log_odds", "agrees_with_full", "kl_to_full"):
        for label, e in getattr(curves, metric).items():
            rows += [
                {
                    "metric": metric,
                    "label": label,
                    "exit": int(exit),
                    "n": curves.counts[label],
                    "value": e.value[i],
                    "low": e.low[i],
                    "high": e.high[i],
                }
                for i, exit in enumerate(curves.exits)
            ]
    return rows


def outcome_rows(run_path: str | Path, seed: int = 0) -> list[dict]:
    """Rates of every outcome by label and exit.

    Wilson's interval where a prompt has one sample, else a bootstrap clustered by prompt.
    """
    outcome_NME, labels_N, exits, _ = read_outcomes(run_path)
    rows = []
    for label in sorted(set(labels_N.tolist())):
        mine_NME = outcome_NME[labels_N == label]
        count, samples, _ = mine_NME.shape
        for outcome in Outcome:
            did_NE = (mine_NME == outcome).mean(axis=1)
            if samples == 1:
                bounds = [wilson(int(k), count) for k in did_NE.sum(axis=0)]
            else:
                everyone = [np.ones(count, bool)]
                draws = bootstrap_means(did_NE, range(count), everyone, seed=seed)
                bounds = list(zip(*interval(draws[0]), strict=True))
            rows += [
                {
                    "metric": f"outcome_{outcome}",
                    "label": label,
                    "exit": exit,
                    "n": count,
                    "value": float(did_NE[:, e].mean()),
                    "low": float(bounds[e][0]),
                    "high": float(bounds[e][1]),
                }
                for e, exit in enumerate(exits)
            ]
    return rows


def paired_rows(run_path: str | Path) -> list[dict]:
    """Each exit's refusals against full depth's on the same prompts, where both were spoken.

    The first sample of each prompt counts: samples of one prompt are not independent.
    """
    outcome_NME, labels_N, exits, _ = read_outcomes(run_path)
    refuses_NE = outcome_NME[:, 0] == Outcome.REFUSE
    rows = []
    for label in sorted(set(labels_N.tolist())):
        mine_NE = refuses_NE[labels_N == label]
        full_N = mine_NE[:, -1]
        counts = [
            (int((mine_NE[:, e] & ~full_N).sum()), int((~mine_NE[:, e] & full_N).sum()))
            for e in range(len(exits) - 1)
        ]
        p_values = [mcnemar(*pair) for pair in counts]
        rows += [
            {
                "label": label,
                "exit": exits[e],
                "n": len(mine_NE),
                "refuses_only_here": here,
                "refuses_only_at_full_depth": full,
                "p": p_values[e],
                "p_holm": adjusted,
            }
            for e, ((here, full), adjusted) in enumerate(zip(counts, holm(p_values), strict=True))
        ]
    return rows


def detection_rows() -> list[dict]:
    """How often the built-in detector gives which outcome to answers of each human label."""
    rows = []
    for label, counts in held_out_counts().items():
        total = sum(counts.values())
        for outcome, count in counts.items():
            low, high = wilson(count, total)
            rows.append(
                {
                    "metric": f"detected_{outcome}",
                    "label": label,
                    "exit": None,
                    "n": total,
                    "value": count / total,
                    "low": low,
                    "high": high,
                }
            )
    return rows


def write_rates(run: Run, curves: DepthCurves, seed: int) -> None:
    """Writes curve.parquet, and paired.parquet where full depth was spoken among other exits."""
    rows = first_token_rows(curves)
    if run.finished("generations"):
        rows += outcome_rows(run.path, seed)
        if run.record["settings"]["judge"] == BUILT_IN:
            rows += detection_rows()
        if curves.exits[-1] == run.record["facts"]["depth"] and len(curves.exits) > 1:
            paired = pa.Table.from_pylist(paired_rows(run.path), PAIRED_SCHEMA)
            run.write_table("paired", paired)
    run.write_table("curve", pa.Table.from_pylist(rows, CURVE_SCHEMA))


class Spoken(NamedTuple):
    """What was said at every exit."""

    outcome_NME: np.ndarray  # prompt, sample, exit
    labels_N: np.ndarray
    exits: list[int]
    ids: list[str]  # of the prompts


def read_outcomes(run_path: str | Path) -> Spoken:
    """The outcomes of a sweep's generations, or of the answers where a model decided first."""
    label_of = {p["prompt_id"]: p["label"] for p in read_table(run_path, "prompts").to_pylist()}
    decided = (Path(run_path) / "verdicts.parquet").is_file()
    table = read_table(run_path, "verdicts" if decided else "generations")
    names = ("vote", "answer_outcome") if decided else ("sample", "outcome")
    ids, n = np.unique(table["prompt_id"].to_numpy(), return_inverse=True)
    exits, e = np.unique(table["exit"].to_numpy(), return_inverse=True)
    m = table[names[0]].to_numpy()
    outcome_NME = np.full((len(ids), m.max() + 1, len(exits)), "", dtype=object)
    outcome_NME[n, m, e] = table[names[1]].to_pylist()
    labels_N = np.array([label_of[i] for i in ids])
    return Spoken(outcome_NME, labels_N, exits.tolist(), ids.tolist())
