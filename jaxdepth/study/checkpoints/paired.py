"""Differences between two checkpoints, layer by layer, paired by prompt.

Both checkpoints are measured in the same bootstrap draws of the same prompts, so a difference in a
draw is the difference between two columns of numbers. A difference of differences joins two sets of
prompts that have nothing to do with each other; their draws are independent.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from jaxdepth.errors import InputError
from jaxdepth.stats.intervals import holm, interval
from jaxdepth.study.atomic_files import write_once

FILE = "against.parquet"
AUROC, RIGHT, MARGIN = "auroc", "right", "margin"
SCHEMA = pa.schema(
    [
        ("measure", pa.string()),  # auroc of the probe; right (a share) and margin (nats) of facts
        ("domain", pa.string()),  # or `a - b`, the difference between two
        ("position", pa.string()),  # of the probe
        ("layer", pa.int32()),  # or exit; null for the mean over 1..depth
        ("n", pa.int32()),
        ("base", pa.float64()),
        ("base_low", pa.float64()),
        ("base_high", pa.float64()),
        ("against", pa.float64()),
        ("against_low", pa.float64()),
        ("against_high", pa.float64()),
        ("difference", pa.float64()),  # against - base
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p", pa.float64()),
        ("p_holm", pa.float64()),  # adjusted over the layers
    ]
)


class Measured(NamedTuple):
    """What one checkpoint reaches at every layer, and in every bootstrap draw of the prompts."""

    value_X: Float[np.ndarray, " X"]
    resampled_RX: Float[np.ndarray, "R X"]

    def __sub__(self, other: "Measured") -> "Measured":
        return Measured(self.value_X - other.value_X, self.resampled_RX - other.resampled_RX)


def paired_rows(at: dict, layers: Sequence[int], base: Measured, against: Measured) -> list[dict]:
    """The rows of `against` for one curve: every layer, then the mean over layers 1 and up.

    Args:
        at: measure, domain, position and n.
        layers: the X layers or exits; 0 is the embedding and no part of the mean.
        base: of the first checkpoint.
        against: of the other, in the same draws.
    """
    mean_X = (np.asarray(layers) > 0) / np.count_nonzero(layers)
    base, against = (
        Measured(
            np.append(m.value_X, m.value_X @ mean_X),
            np.column_stack([m.resampled_RX, m.resampled_RX @ mean_X]),
        )
        for m in (base, against)
    )
    change = against - base
    p_values = p_of_zero(change)
    adjusted = [*holm(p_values[:-1]), p_values[-1]]
    rows = []
    for x, layer in enumerate([*layers, None]):
        row = at | {"layer": layer, "p": p_values[x], "p_holm": adjusted[x]}
        ends = (("base_", base), ("against_", against), ("", change))
        for prefix, of in ends:
            low, high = interval(of.resampled_RX[:, [x]])
            row[prefix.rstrip("_") or "difference"] = float(of.value_X[x])
            row |= {f"{prefix}low": float(low[0]), f"{prefix}high": float(high[0])}
        rows.append(row)
    return rows


def p_of_zero(change: Measured) -> list[float]:
    """Two-sided p-values of no difference: normal, with the spread of the draws.

    Counting draws would give nothing below 2 / R, too coarse for Holm over many layers.
    """
    found = []
    for value, spread in zip(change.value_X, np.nanstd(change.resampled_RX, axis=0), strict=True):
        if not value:
            found.append(1.0)
        else:
            z = abs(value) / spread if spread else np.inf
            found.append(2 * NormalDist().cdf(-float(z)))
    return found


def write_paired(out: Path, rows: Sequence[dict]) -> None:
    """Writes the table of a comparison to its folder."""
    table = pa.Table.from_pylist(list(rows), SCHEMA)
    write_once(out / FILE, lambda p: pq.write_table(table, p, compression="zstd"))


def read_paired(out: Path) -> list[dict]:
    """The rows of a finished comparison.

    Raises:
        InputError: there is none.
    """
    if not (Path(out) / FILE).is_file():
        raise InputError(f"{out} has no {FILE}: compare with `jaxdepth probe --against` first")
    return pq.read_table(Path(out) / FILE).to_pylist()
