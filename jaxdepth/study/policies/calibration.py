"""Thresholds of exit policies, calibrated on some prompts and held against others."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jaxdepth.depth.policies import Policy
from jaxdepth.stats.intervals import interval, resample_counts
from jaxdepth.stats.risk_control import threshold_for_depth, threshold_for_risk
from jaxdepth.study.policies.rates import AGREEMENT, MEAN_LAYERS, RuleRun

CALIBRATION = "calibration"
DEPTH, RISK = "mean layers", "risk"
CALIBRATION_SCHEMA = pa.schema(
    [
        ("policy", pa.string()),
        ("aim", pa.string()),  # mean layers, or risk: the mean share of tokens unlike full depth's
        ("wanted", pa.float64()),
        ("threshold", pa.float32()),  # null where none of the grid is certified for the risk
        ("on_validation", pa.float64()),
        ("held_out", pa.float64()),
        ("low", pa.float64()),  # 95% of what is held out, bootstrap of whole pairs
        ("high", pa.float64()),
        ("layers", pa.float64()),  # mean layers on the held-out prompts
        ("n_validation", pa.int32()),
        ("n_held_out", pa.int32()),
    ]
)


def calibration_rows(
    validation: RuleRun,
    held_out: RuleRun,
    wanted_layers: Sequence[float],
    risk: float,
    error: float,
    seed: int = 0,
) -> list[dict]:
    """For every policy with a grid: the threshold for each aim, and what it does elsewhere.

    The risk is controlled by Learn-then-Test over whole pairs, so that with probability
    1 - `error` the held-out risk is below `risk` if the prompts are of one kind.
    """
    counts_KN = resample_counts(validation.clusters, seed=seed)
    rows = []
    grid = [policy for policy in Policy if policy not in (Policy.FIXED, Policy.ORACLE)]
    for policy in grid:
        places = [r for r, rule in enumerate(validation.rules) if rule[1] == policy]
        if not places:
            continue
        thresholds = [validation.rules[r][2] for r in places]
        depth_NR = validation.values[MEAN_LAYERS][:, places]
        loss_NR = 1 - validation.values[AGREEMENT][:, places]
        for wanted in wanted_layers:
            found = threshold_for_depth(thresholds, depth_NR, wanted, counts_KN)
            rows.append(
                {"policy": str(policy), "aim": DEPTH, "wanted": wanted}
                | _held(validation, held_out, MEAN_LAYERS, places[found.index], seed)
            )
        certified = threshold_for_risk(thresholds, loss_NR, risk, error, validation.clusters)
        at = None if certified is None else places[certified]
        rows.append(
            {"policy": str(policy), "aim": RISK, "wanted": risk}
            | _held(validation, held_out, AGREEMENT, at, seed)
        )
    return rows


def _held(validation: RuleRun, held_out: RuleRun, metric: str, r: int | None, seed: int) -> dict:
    """What a rule does on both sets; nulls where there is no rule."""
    counts = {"n_validation": len(validation.ids), "n_held_out": len(held_out.ids)}
    if r is None:
        return counts

    def value_of(run: RuleRun) -> np.ndarray:
        value_N = run.values[metric][:, r]
        return 1 - value_N if metric == AGREEMENT else value_N

    value_N = value_of(held_out)
    counts_RN = resample_counts(held_out.clusters, seed=seed)
    low, high = interval(((counts_RN @ value_N) / counts_RN.sum(axis=1))[:, None])
    return counts | {
        "threshold": validation.rules[r][2],
        "on_validation": float(value_of(validation).mean()),
        "held_out": float(value_N.mean()),
        "low": float(low[0]),
        "high": float(high[0]),
        "layers": float(held_out.values[MEAN_LAYERS][:, r].mean()),
    }


def calibration_findings(rows: Sequence[dict]) -> list[str]:
    """What was aimed at and what came out, one sentence each."""
    lines = []
    for row in rows:
        if row["threshold"] is None:
            lines.append(
                f"{row['policy']}: no threshold of the grid is certified for a risk of "
                f"{row['wanted']:.0%}."
            )
            continue
        is_risk = row["aim"] == RISK
        shown = "{:.0%}" if is_risk else "{:.1f}"
        held, low, high = (shown.format(row[k]) for k in ("held_out", "low", "high"))
        lines.append(
            f"{row['policy']} for {row['aim']} {shown.format(row['wanted'])}: threshold "
            f"{row['threshold']:g}; on held-out prompts {held} [{low}, {high}]"
            + (f" at {row['layers']:.1f} layers." if is_risk else ".")
        )
    return lines
