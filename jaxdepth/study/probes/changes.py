"""Curves over depth, onset and midpoint of each, and the lags of behaviour behind content.

A curve is an AUROC by layer. The curve of refusal is how well an exit's refusal log-odds tell
harmful from harmless prompts: a measure of what the exit would do, where the other curves measure
what a probe can read.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdepth.stats.change_point import ChangePoint, Distance, Place, change_point, lag
from jaxdepth.stats.intervals import holm
from jaxdepth.stats.ranking import auroc
from jaxdepth.stats.resampled import UNIT, clusters_of, resampled_bounds
from jaxdepth.stats.sufficiency import enough
from jaxdepth.study.common_tables import FIRST_TOKEN
from jaxdepth.study.probes.evaluate import BEHAVIOUR_HARMFUL, CONTENT, OWN, Examples
from jaxdepth.study.probes.tables import CHANGE_POINTS, CURVES, PROBE_SCORES
from jaxdepth.study.run_directory import Run, read_frame

REFUSAL = "refusal log-odds by exit"
LEVEL = 0.05  # family-wise level of the tests for a rise, over all curves


class Curve(NamedTuple):
    """AUROC by neighbouring layers, with its bootstrap resamples."""

    first: int  # number of the first layer
    auroc_X: Float[np.ndarray, " X"]
    resampled_RX: Float[np.ndarray, "R X"]
    clusters: int  # that were resampled, such as pairs
    is_behaviour: bool  # so that a lag behind content makes sense


def write_changes(run: Run, own: Examples, transfer: Sequence[Examples]) -> None:
    """Write the curves, the change point of each, and the lags behind content.

    A lag is written only if both curves rise. Curves of too few clusters have no change point.
    """
    curves = probe_curves(run, own, transfer)
    curves[REFUSAL] = refusal_curve(run, own)
    frames = []
    for name, curve in curves.items():
        low_X, high_X = resampled_bounds(
            curve.auroc_X, curve.resampled_RX, curve.clusters, UNIT, order=2
        )
        layers = range(curve.first, curve.first + len(curve.auroc_X))
        columns = {"layer": layers, "auroc": curve.auroc_X, "low": low_X, "high": high_X}
        frames.append(pd.DataFrame({"curve": name, **columns}))
    run.write_table(CURVES.name, CURVES.from_frame(pd.concat(frames)))
    changes = {
        name: change_point(curve.auroc_X, curve.resampled_RX, curve.first)
        for name, curve in curves.items()
        if len(curve.auroc_X) > 2 and enough(curve.clusters)
    }
    contents = [content_at(p) for p in run.record["settings"]["positions"]]
    behaviours = [name for name, curve in curves.items() if curve.is_behaviour]
    rows = _change_rows(changes, contents, behaviours)
    run.write_table(CHANGE_POINTS.name, CHANGE_POINTS.from_rows(rows))


def _change_rows(
    changes: Mapping[str, ChangePoint], contents: Sequence[str], behaviours: Sequence[str]
) -> list[dict]:
    """The rows of `change_points`: first the change points, then the lags."""
    rows = []
    adjusted = holm([change.p_rise for change in changes.values()])
    for (name, change), p_holm in zip(changes.items(), adjusted, strict=True):
        kept = ("rise", "rise_low", "rise_high", "p_rise", "p_gradual")
        row = {name: getattr(change, name) for name in kept} | _layers(
            change.onset, change.midpoint
        )
        # With many curves one would rise by chance: the adjusted test decides.
        kind = change.kind if p_holm <= LEVEL else "none"
        family = {"p_rise_holm": p_holm, "tests": len(changes)}
        rows.append({"curve": name, "kind": kind} | row | family)
    rising = [row["curve"] for row in rows if row["kind"] != "none"]
    for later in rising:
        for earlier in rising:
            if later in behaviours and earlier in contents:
                behind = lag(changes[earlier], changes[later])
                rows.append({"curve": later, "after": earlier} | _layers(*behind))
    return rows


def _layers(onset: Place | Distance, midpoint: Place | Distance) -> dict[str, int]:
    """The columns of an onset and a midpoint, or of the layers between two of each."""
    return {
        f"{name}{bound}": number
        for name, numbers in (("onset", onset), ("midpoint", midpoint))
        for bound, number in zip(("", "_low", "_high"), numbers[:3], strict=True)
    }


def content_at(position: str) -> str:
    """The name of the curve of readable harmfulness at a position."""
    return f"{CONTENT} at {position}"


def probe_curves(run: Run, own: Examples, transfer: Sequence[Examples]) -> dict[str, Curve]:
    """The curves of every target, position and set of prompts that was scored."""
    frame = read_frame(run.path, PROBE_SCORES)
    sets = {examples.name: examples for examples in (own, *transfer)}
    curves = {}
    keys = ["target", "position", "set"]
    for (target, position, name), rows in frame.groupby(keys, sort=False):
        first = rows[rows["layer"] == 0]
        # Rows go layer by layer, the prompts in the same order in each.
        score_JM = rows["score"].to_numpy().reshape(-1, len(first))
        positive_M = first["positive"].to_numpy()
        fold_M = first["fold"].to_numpy(int) if name == OWN else None
        counts_RM = sets[name].counts_RN[:, sets[name].rows(first["prompt_id"])]
        label = f"{target} at {position}" + ("" if name == OWN else f", transfer to {name}")
        curves[label] = Curve(
            0,
            auroc(score_JM, positive_M, fold_M),
            auroc(score_JM, positive_M, fold_M, counts_RM),
            clusters_of(counts_RM),
            target == BEHAVIOUR_HARMFUL,
        )
    return curves


def refusal_curve(run: Run, own: Examples) -> Curve:
    """How well the refusal log-odds of each exit tell harmful from harmless prompts."""
    frame = read_frame(run.path, FIRST_TOKEN)
    frame = frame.pivot(index="exit", columns="prompt_id", values="refusal_log_odds")
    score_EN = frame[own.ids].to_numpy(np.float64)
    resampled_RE = auroc(score_EN, own.harmful_N, None, own.counts_RN)
    clusters = clusters_of(own.counts_RN)
    return Curve(1, auroc(score_EN, own.harmful_N), resampled_RE, clusters, True)
