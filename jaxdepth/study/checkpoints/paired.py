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
from scipy.stats import t as student

from jaxdepth.errors import InputError
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import holm
from jaxdepth.stats.resampled import UNIT, resampled_bounds
from jaxdepth.stats.sufficiency import enough
from jaxdepth.study.atomic_files import write_once
from jaxdepth.study.checkpoints.tables import AGAINST, AUROC, BASE, DIFFERENCES, MARGIN
from jaxdepth.study.run_directory import read_declared

FILE = f"{DIFFERENCES.name}.parquet"
DIFFERENCE = "difference"


class Curve(NamedTuple):
    """A measure of one checkpoint at every layer, also in every bootstrap resample of prompts."""

    value_X: Float[np.ndarray, " X"]
    resampled_RX: Float[np.ndarray, "R X"]
    clusters: int  # that were resampled, such as pairs

    def __sub__(self, other: "Curve") -> "Curve":
        return Curve(
            self.value_X - other.value_X,
            self.resampled_RX - other.resampled_RX,
            min(self.clusters, other.clusters),
        )

    def append_mean(self, weight_X: Float[np.ndarray, " X"]) -> "Curve":
        """The curve with its weighted mean as one more layer."""
        return Curve(
            np.append(self.value_X, self.value_X @ weight_X),
            np.column_stack([self.resampled_RX, self.resampled_RX @ weight_X]),
            self.clusters,
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
    adjusted = holm(p_X[:-1]) if enough(change.clusters) else p_X[:-1]
    columns |= {"p": p_X, "p_holm": [*adjusted, p_X[-1]]}
    columns["tests"] = [len(layers)] * len(layers) + [1]
    order = 2 if measure == AUROC else 1
    for side, curve in ((BASE, base), (AGAINST, against), (DIFFERENCE, change)):
        value_range = _value_range(measure, domain, side)
        bounds = resampled_bounds(
            curve.value_X, curve.resampled_RX, curve.clusters, value_range, order
        )
        columns |= dict(zip(_columns(side), (curve.value_X, *bounds), strict=True))
    return pd.DataFrame(columns)


def _value_range(measure: str, domain: str, side: str) -> tuple[float, float] | None:
    """The least and the largest possible value of a side; None where there are none, as of nats."""
    if measure == MARGIN:
        return None
    differences = (" - " in domain) + (side == DIFFERENCE)  # each doubles the range
    return UNIT if not differences else (-float(differences), float(differences))


def p_of_zero(change: Curve) -> Float[np.ndarray, " X"]:
    """Two-sided p-values of no difference: Student's t, with the spread of the resamples.

    NaN where there are too few clusters. Counting resamples would give no p-value below 2 / R, too
    coarse for Holm over many layers. Where no resample differs from another, all clusters changed
    alike: the p-value is that of a sign test.
    """
    if not enough(change.clusters):
        return np.full(len(change.value_X), np.nan)
    degrees = change.clusters - 1
    # The bootstrap's variance of a mean of n is too small by (n - 1) / n.
    error_X = np.nanstd(change.resampled_RX, axis=0) * np.sqrt(change.clusters / degrees)
    varies_X = error_X > 1e-9
    z_X = np.abs(change.value_X) / np.where(varies_X, error_X, 1)
    p_X = np.where(varies_X, 2 * student.sf(z_X, degrees), 2.0 ** (1 - change.clusters))
    return np.where(np.abs(change.value_X) < 1e-12, 1.0, p_X)


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
    return read_declared(file, DIFFERENCES).to_pandas(
        types_mapper={pa.int32(): pd.Int32Dtype()}.get
    )


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
