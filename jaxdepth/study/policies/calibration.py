"""Thresholds of exit policies, calibrated on validation prompts, evaluated on held-out prompts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdepth.depth.policies import Policy
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.resampled import UNIT, resampled_bounds
from jaxdepth.stats.risk_control import threshold_for_depth, threshold_for_risk
from jaxdepth.study.policies.rates import AGREEMENT, MEAN_LAYERS, RuleMeans, resampled_means
from jaxdepth.study.policies.rules import family_of
from jaxdepth.study.policies.tables import CALIBRATION

DEPTH, RISK = "mean layers", "risk"
_ORDER = [str(policy) for policy in Policy]


def calibrate(
    validation: RuleMeans,
    held_out: RuleMeans,
    target_layers: Sequence[float],
    risk: float,
    error: float,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose a threshold for every policy and target: the calibration table.

    The risk is controlled by Learn then Test over whole pairs: with probability 1 - `error` the
    risk on further prompts of the same kind is at most `risk`, for each policy by itself.

    Args:
        validation: the prompts that choose the thresholds.
        held_out: the prompts that the choice is evaluated on.
        target_layers: target mean depths.
        risk: target mean share of tokens that differ from full depth's.
        error: maximum probability that a chosen threshold exceeds it.
        seed: of the bootstrap.
    """
    counts_KN = resample_counts(validation.clusters_N, seed=seed)
    rows = []
    rules = validation.rules
    is_free = ~rules["policy"].isin((Policy.FIXED, Policy.ORACLE))
    families = np.array([family_of(name) for name in rules["rule"]], object)
    for family in sorted(set(families[is_free]), key=lambda f: (_ORDER.index(f.split()[0]), f)):
        grid = np.flatnonzero(families == family)
        thresholds = rules["threshold"][grid].tolist()
        depth_NR = validation.values[MEAN_LAYERS][:, grid]
        loss_NR = 1 - validation.values[AGREEMENT][:, grid]
        for target in target_layers:
            chosen = threshold_for_depth(thresholds, depth_NR, target, counts_KN).index
            rows.append(
                {"policy": family, "aim": DEPTH, "wanted": target}
                | _evaluate(validation, held_out, DEPTH, grid[chosen], seed)
            )
        certified = threshold_for_risk(thresholds, loss_NR, risk, error, validation.clusters_N)
        rows.append(
            {"policy": family, "aim": RISK, "wanted": risk}
            | _evaluate(
                validation, held_out, RISK, None if certified is None else grid[certified], seed
            )
        )
    columns = CALIBRATION.schema.names
    return pd.DataFrame(rows, columns=columns).astype({"threshold": float})


def _evaluate(
    validation: RuleMeans, held_out: RuleMeans, aim: str, r: int | None, seed: int
) -> dict[str, float]:
    """The columns of a chosen rule on both sets; without a rule only the numbers of prompts."""
    counts: dict[str, float] = {
        "n_validation": len(validation.ids_N),
        "n_held_out": len(held_out.ids_N),
    }
    if r is None:
        return counts
    value_N = _aim_values(held_out, aim, r)
    counts_KN = resample_counts(held_out.clusters_N, seed=seed)
    low, high = resampled_bounds(
        value_N.mean(keepdims=True),
        resampled_means(counts_KN, value_N[:, None]),
        len(set(held_out.clusters_N.tolist())),
        UNIT if aim == RISK else None,
    )
    return counts | {
        "threshold": validation.rules["threshold"][r],
        "on_validation": _aim_values(validation, aim, r).mean(),
        "held_out": value_N.mean(),
        "low": low[0],
        "high": high[0],
        "layers": held_out.values[MEAN_LAYERS][:, r].mean(),
    }


def _aim_values(means: RuleMeans, aim: str, r: int) -> Float[np.ndarray, " N"]:
    return means.values[MEAN_LAYERS][:, r] if aim == DEPTH else 1 - means.values[AGREEMENT][:, r]


def calibration_findings(calibration: pd.DataFrame) -> list[str]:
    """A sentence for each target: the threshold, and its depth or risk on held-out prompts."""
    lines = []
    for row in calibration.to_dict("records"):
        if np.isnan(row["threshold"]):
            lines.append(
                f"{row['policy']}: no threshold of the grid is certified for a risk of "
                f"{row['wanted']:.0%} (each policy by itself)."
            )
            continue
        spec = ".0%" if row["aim"] == RISK else ".1f"
        held_out = Estimate(row["held_out"], row["low"], row["high"], n=row["n_held_out"])
        lines.append(
            f"{row['policy']} for {row['aim']} {row['wanted']:{spec}}: threshold "
            f"{row['threshold']:g}; on held-out prompts {held_out:{spec}}"
            + (f" at {row['layers']:.1f} layers." if row["aim"] == RISK else ".")
        )
    return lines
