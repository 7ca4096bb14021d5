"""Where curves over depth rise, how far apart, and how alike the directions of categories are.

A curve is an AUROC by layer. That of refusal is how well an exit's refusal log-odds tell harmful
from harmless prompts: what the exit would do, not what could be read off it.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxdepth.stats.change_point import change_point, lag
from jaxdepth.stats.intervals import holm, interval
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.common_tables import FIRST_TOKEN
from jaxdepth.study.probes.evaluate import BEHAVIOUR_HARMFUL, CONTENT, OWN, SCORES, Examples
from jaxdepth.study.run_directory import Run, read_table

CHANGES, CURVES = "change_points", "curves"
REFUSAL = "refusal log-odds by exit"
LEVEL = 0.05  # of the tests for a rise, all curves together
CURVES_SCHEMA = pa.schema(
    [
        ("curve", pa.string()),
        ("layer", pa.int32()),
        ("auroc", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
CHANGES_SCHEMA = pa.schema(
    [
        ("curve", pa.string()),
        ("after", pa.string()),  # with it the row is a lag behind that curve, else a change point
        ("kind", pa.string()),  # jump, gradual or none; null for a lag
        ("layer", pa.int32()),  # first of the upper level, or the lag in layers
        ("low", pa.int32()),
        ("high", pa.int32()),
        ("rise", pa.float64()),
        ("rise_low", pa.float64()),
        ("rise_high", pa.float64()),
        ("p_rise", pa.float64()),
        ("p_rise_holm", pa.float64()),  # adjusted over the curves
        ("p_gradual", pa.float64()),
    ]
)


class Curve(NamedTuple):
    """AUROC by neighbouring layers, with its bootstrap draws."""

    first: int
    auroc_X: np.ndarray
    resampled_RX: np.ndarray
    follows: bool  # whether it is of behaviour, so that a lag behind content makes sense


def write_changes(run: Run, own: Examples, others: list[Examples]) -> None:
    """Writes the curves, the change point of each, and the lags behind readable harmfulness.

    A lag is given where both curves rise.
    """
    curves = probe_curves(run, own, others)
    curves[REFUSAL] = refusal_curve(run, own)
    rows = []
    for name, curve in curves.items():
        bounds = zip(curve.auroc_X, *interval(curve.resampled_RX), strict=True)
        for layer, numbers in enumerate(bounds, curve.first):
            values = dict(zip(("auroc", "low", "high"), map(float, numbers), strict=True))
            rows.append({"curve": name, "layer": layer} | values)
    run.write_table(CURVES, pa.Table.from_pylist(rows, CURVES_SCHEMA))

    found = {
        name: change_point(curve.auroc_X, curve.resampled_RX, curve.first)
        for name, curve in curves.items()
        if len(curve.auroc_X) > 2
    }
    adjusted = holm([change.p_rise for change in found.values()])
    changes = []
    for (name, change), p_holm in zip(found.items(), adjusted, strict=True):
        told = change._asdict()
        del told["layers_R"]
        # With many curves one would seem to rise: what counts is the adjusted test.
        kind = change.kind if p_holm <= LEVEL else "none"
        changes.append({"curve": name, "p_rise_holm": p_holm} | told | {"kind": kind})
    rising = [change["curve"] for change in changes if change["kind"] != "none"]
    contents = [content_at(p) for p in run.record["settings"]["positions"]]
    for later in rising:
        for earlier in rising:
            if curves[later].follows and earlier in contents:
                behind = lag(found[earlier], found[later])
                told = {"layer": behind.layers, "low": behind.low, "high": behind.high}
                changes.append({"curve": later, "after": earlier} | told)
    run.write_table(CHANGES, pa.Table.from_pylist(changes, CHANGES_SCHEMA))


def content_at(position: str) -> str:
    """The name of the curve of readable harmfulness at a position."""
    return f"{CONTENT} at {position}"


def probe_curves(run: Run, own: Examples, others: list[Examples]) -> dict[str, Curve]:
    """The curves of every target, position and set of prompts that was scored."""
    table = read_table(run.path, SCORES)
    sets = {examples.name: examples for examples in (own, *others)}
    keys = ("target", "position", "set")
    columns = [np.array(table[key].to_pylist()) for key in keys]
    layer, score = table["layer"].to_numpy(), table["score"].to_numpy()
    ids, positive = (
        np.array(table["prompt_id"].to_pylist()),
        np.array(table["positive"].to_pylist()),
    )
    fold = np.array([-1 if f is None else f for f in table["fold"].to_pylist()])
    curves = {}
    for target, position, name in dict.fromkeys(zip(*columns, strict=True)):
        mine = (columns[0] == target) & (columns[1] == position) & (columns[2] == name)
        first = mine & (layer == 0)
        place = {prompt_id: n for n, prompt_id in enumerate(sets[name].ids)}
        rows_M = [place[i] for i in ids[first]]
        # Rows go layer by layer, the prompts in the same order in each.
        score_JM = score[mine].reshape(-1, len(rows_M))
        fold_M = fold[first] if name == OWN else None
        counts_RM = sets[name].counts_RN[:, rows_M]
        label = f"{target} at {position}" + ("" if name == OWN else f", transfer to {name}")
        curves[label] = Curve(
            0,
            auroc(score_JM, positive[first], fold_M),
            auroc(score_JM, positive[first], fold_M, counts_RM),
            target == BEHAVIOUR_HARMFUL,
        )
    return curves


def refusal_curve(run: Run, own: Examples) -> Curve:
    """How well the refusal log-odds of each exit tell harmful from harmless prompts."""
    table = read_table(run.path, FIRST_TOKEN.name)
    exits, e = np.unique(table["exit"].to_numpy(), return_inverse=True)
    place = {prompt_id: n for n, prompt_id in enumerate(own.ids)}
    n = np.array([place[i] for i in table["prompt_id"].to_pylist()])
    score_EN = np.zeros((len(exits), len(own.ids)))
    score_EN[e, n] = table["refusal_log_odds"].to_numpy()
    return Curve(
        1, auroc(score_EN, own.harmful_N), auroc(score_EN, own.harmful_N, None, own.counts_RN), True
    )
