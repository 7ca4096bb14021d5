"""Differences between two checkpoints, layer by layer, paired by prompt.

Both checkpoints are measured in the same bootstrap resamples of the same prompts, so the difference
in a resample is the difference of two columns of numbers. A difference of differences joins two
unrelated sets of prompts, which are resampled independently.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from scipy.stats import norm

from jaxdepth.errors import InputError
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import holm, interval
from jaxdepth.study.atomic_files import write_once
from jaxdepth.study.checkpoints.tables import AGAINST, BASE, DIFFERENCES

FILE = f"{DIFFERENCES.name}.parquet"
DIFFERENCE = "difference"


class Curve(NamedTuple):
    """A measure of one checkpoint at every layer, also in every bootstrap resample of prompts."""

    value_X: Float[np.ndarray, " X"]
    resampled_RX: Float[np.ndarray, "R X"]

    def __sub__(self, other: "Curve") -> "Curve":
        return Curve(self.value_X - other.value_X, self.resampled_RX - other.resampled_RX)

    def append_mean(self, weight_X: Float[np.ndarray, " X"]) -> "Curve":
        """The curve with its weighted mean as one more layer."""
        return Curve(
            np.append(self.value_X, self.value_X @ weight_X),
            np.column_stack([self.resampled_RX, self.resampled_RX @ weight_X]),
        )


def paired_rows(
    measure: str,
    domain: str,
    n: int,
    layers: Sequence[int],
    base: Curve,
    against: Curve,
    *,
    position: str | None = None,
) -> pd.DataFrame:
    """Rows of `against` for one curve: every layer, then the mean over layers 1 and up.

    Args:
        measure: as in the table.
        domain: as in the table.
        n: number of prompts.
        layers: the X layers or exits; 0 is the embedding and no part of the mean.
        base: of the first checkpoint.
        against: of the other, in the same resamples.
        position: of the probe.
    """
    weight_X = (np.asarray(layers) > 0) / np.count_nonzero(layers)
    base, against = base.append_mean(weight_X), against.append_mean(weight_X)
    change = against - base
    p_X = p_of_zero(change)
    columns: dict[str, Any] = {"measure": measure, "domain": domain, "position": position, "n": n}
    columns["layer"] = pd.array([*layers, None], dtype="Int32")
    columns |= {"p": p_X, "p_holm": [*holm(p_X[:-1]), p_X[-1]]}
    for side, curve in ((BASE, base), (AGAINST, against), (DIFFERENCE, change)):
        values = curve.value_X, *interval(curve.resampled_RX)
        columns |= dict(zip(_columns(side), values, strict=True))
    return pd.DataFrame(columns)


def p_of_zero(change: Curve) -> Float[np.ndarray, " X"]:
    """Two-sided p-values of no difference: normal, with the spread of the resamples.

    Counting resamples would give no p-value below 2 / R, too coarse for Holm over many layers.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        z_X = np.abs(change.value_X) / np.nanstd(change.resampled_RX, axis=0)
    return np.where(change.value_X == 0, 1.0, 2 * norm.sf(z_X))


def write_paired(out: Path, rows: pd.DataFrame) -> None:
    """Write the table of a comparison to its folder."""
    table = DIFFERENCES.from_frame(rows)
    write_once(out / FILE, lambda p: pq.write_table(table, p, compression="zstd"))


def read_paired(out: str | Path) -> pd.DataFrame:
    """The table of a finished comparison; the layer of means is <NA>.

    Raises:
        InputError: there is none.
    """
    file = Path(out) / FILE
    if not file.is_file():
        raise InputError(f"{out} has no {FILE}: compare with `jaxdepth probe --against` first")
    return pq.read_table(file).to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)


def layers_of(
    rows: pd.DataFrame, measure: str, domain: str, position: str | None = None
) -> pd.DataFrame:
    """The rows of one curve without its mean, indexed by layer or exit."""
    rows = _select(rows, measure, domain, position).dropna(subset="layer")
    return rows.astype({"layer": int}).set_index("layer").sort_index()


def mean_of(
    rows: pd.DataFrame, measure: str, domain: str, position: str | None = None
) -> pd.Series:
    """The row with a curve's mean over layers or exits."""
    rows = _select(rows, measure, domain, position)
    return rows[rows["layer"].isna()].iloc[0]


def estimate(rows: pd.DataFrame | pd.Series, side: str = DIFFERENCE) -> Estimate:
    """A side's measure, or the difference of both: of one row, or arrays over rows."""
    return Estimate(*(np.asarray(rows[name]) for name in _columns(side)))


def _select(rows: pd.DataFrame, measure: str, domain: str, position: str | None) -> pd.DataFrame:
    rows = rows[(rows["measure"] == measure) & (rows["domain"] == domain)]
    return rows if position is None else rows[rows["position"] == position]


def _columns(side: str) -> tuple[str, str, str]:
    prefix = "" if side == DIFFERENCE else f"{side}_"
    return side, f"{prefix}low", f"{prefix}high"
