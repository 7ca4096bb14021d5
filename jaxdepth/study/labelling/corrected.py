"""Rates of a run's outcomes, corrected by the labels in it.

A rate is corrected by labels of the same model, prompts and exits only, never by errors that were
measured elsewhere: at one exit by that exit's labels, if there are `MIN_LABELS`, and over a band of
exits by the band's, which is what the sample is drawn for. A rate with fewer labels stays
uncorrected (null), as do all rates until the sample has a label in each of its strata.

Labels count up to the first text of the order that the rater left out: so far the order is random,
whereas a text may be left out because it is hard to tell. Of several raters the first one counts.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.prediction_powered import Corrected, corrected_rate
from jaxdepth.study.common_tables import EXIT
from jaxdepth.study.labelling.answers import KEY, read_answers
from jaxdepth.study.labelling.plan import read_plan
from jaxdepth.study.labelling.raters import read_labels
from jaxdepth.study.labelling.tables import CORRECTED, CORRECTED_RATE, LABEL_PLAN, LABELS
from jaxdepth.study.run_directory import read_record
from jaxdepth.study.tables import Column, Table

MIN_LABELS = 20  # of a corrected rate, all outcomes together
COLUMNS = tuple(column.name for column in CORRECTED_RATE)
# What is read here of tables of studies that build on this one.
CURVE_KEYS = Table(
    "curve",
    "a measure by label and exit",
    (
        Column("metric", "string", "a measure"),
        Column("label", "string", "label of the prompts"),
        Column("exit", "int32", "exit, or null", "layers"),
    ),
)
COMPARISON_KEYS = Table(
    "comparison",
    "the share of an outcome by model, group of prompts and exit",
    (
        Column("model", "string", "name of the model"),
        Column("group", "string", "source and label of the prompts"),
        EXIT,
        Column("outcome", "string", "an outcome"),
    ),
)


@dataclass(frozen=True)
class Labelled:
    """The X answers of a run, and the L of them that are labelled."""

    answers: pd.DataFrame  # X rows, see `read_answers`
    labelled_L: Int[np.ndarray, " L"]  # indices in X
    label_L: np.ndarray  # outcomes that the rater saw
    weight_L: Float[np.ndarray, " L"]  # answers of the stratum for each label in it
    rater: str
    bands: list[tuple[int, ...]]  # of exits; those before full depth together, too
    noise_seed: int  # differs between models

    def rate(
        self, is_in_X: Bool[np.ndarray, " X"], *outcomes: str, seed: int = 0
    ) -> Corrected | None:
        """The corrected rate of one of some outcomes among some answers; None with too few labels.

        Differences between models are those of `resampled_R`, where the answers of both are to the
        same prompts and the seed is the same.
        """
        is_in_L = is_in_X[self.labelled_L]
        if is_in_L.sum() < MIN_LABELS:
            return None
        place_X = np.cumsum(is_in_X) - 1
        some = self.answers.loc[is_in_X]
        corrected = corrected_rate(
            some["outcome"].isin(outcomes).to_numpy(),
            some["pair"].to_numpy(),
            place_X[self.labelled_L[is_in_L]],
            np.isin(self.label_L[is_in_L].astype(str), outcomes),
            self.weight_L[is_in_L],
            seed=seed,
            noise_seed=self.noise_seed,
        )
        return None if np.isnan(corrected.rate.value) else corrected

    def where(
        self, *, exits: Sequence[int], label: str | None = None, group: str | None = None
    ) -> Bool[np.ndarray, " X"]:
        """Which answers are of some exits, and of a prompt label, or groups that contain a name."""
        is_in_X = self.answers["exit"].isin(exits).to_numpy()
        if label is not None:
            is_in_X = is_in_X & (self.answers["label"] == label).to_numpy()
        if group is not None:
            in_group_X = self.answers["group"].str.contains(group, regex=False)
            is_in_X = is_in_X & in_group_X.to_numpy(bool)
        return is_in_X


def read_labelled(run_path: str | Path) -> Labelled | None:
    """The labels of a run with what they correct; None where it has none, or too few.

    Raises:
        InputError: a table was damaged, or the text of a labelled answer has changed.
    """
    record = read_record(run_path)
    if not {LABELS.name, LABEL_PLAN.name} <= set(record["tables"]):
        return None
    labels = read_labels(run_path)
    if labels.empty:
        return None
    answers = read_answers(run_path)
    plan = read_plan(run_path, answers)
    rater = labels["rater"].iloc[0]
    own = labels[labels["rater"] == rater]
    plan = plan.merge(own[[*KEY, "label"]], on=KEY, how="left").sort_values("position")
    known = plan[plan["label"].notna().cummin()]
    if known["stratum"].nunique() < plan["stratum"].nunique():
        return None
    index_of = pd.Series(answers.index, pd.MultiIndex.from_frame(answers[KEY]))
    count_L = known.groupby("stratum")["stratum"].transform("size")
    return Labelled(
        answers=answers,
        labelled_L=index_of.loc[list(known[KEY].itertuples(index=False, name=None))].to_numpy(),
        label_L=known["label"].to_numpy(object),
        weight_L=(known["stratum_size"] / count_L).to_numpy(float),
        rater=rater,
        bands=planned_bands(plan, answers, int(record["facts"]["depth"])),
        noise_seed=zlib.crc32("".join(plan["text_sha256"]).encode()),
    )


def planned_bands(plan: pd.DataFrame, answers: pd.DataFrame, depth: int) -> list[tuple[int, ...]]:
    """The bands of exits by which a sample was drawn, and all exits before full depth."""
    exits = sorted(answers["exit"].unique().tolist())
    bands = set()
    for name in plan["stratum"].str.split(" ").str[1].unique():
        first, _, last = name.partition("-")
        bands.add(tuple(e for e in exits if int(first) <= e <= int(last or first)))
    early = tuple(e for e in exits if e < depth)
    return sorted(bands) + ([early] if early and early not in bands else [])


def corrected_rates(run_path: str | Path) -> pd.DataFrame:
    """The corrected rates of a run by band of exits: the table corrected, empty without labels.

    Args:
        run_path: a finished run of sweep or decide. The bootstrap has its seed.

    Raises:
        InputError: as `read_labelled`.
    """
    labelled = read_labelled(run_path)
    rows = [] if labelled is None else list(_band_rates(labelled, _seed_of(run_path)))
    return pd.DataFrame(rows, columns=CORRECTED.schema.names)


def _band_rates(labelled: Labelled, seed: int) -> Iterator[dict]:
    """The rows of the table corrected."""
    for label in sorted(labelled.answers["label"].unique()):
        for band in labelled.bands:
            is_in_X = labelled.where(exits=band, label=label)
            some = labelled.answers.loc[is_in_X]
            shared = {
                "label": label,
                "exits": list(band),
                "n": some["prompt_id"].nunique(),
                "labels": int(is_in_X[labelled.labelled_L].sum()),
                "rater": labelled.rater,
            }
            for outcome in Outcome:
                rate = labelled.rate(is_in_X, outcome, seed=seed)
                yield {
                    **shared,
                    "outcome": str(outcome),
                    "value": float((some["outcome"] == outcome).mean()),
                    "power": rate.power if rate else None,
                    **corrected_columns(rate),
                }


def corrected_columns(rate: Corrected | None) -> dict[str, float | None]:
    """A corrected rate as the columns of a table; null with too few labels."""
    bounds = (rate.rate.value, rate.rate.low, rate.rate.high) if rate else (None, None, None)
    return dict(zip(COLUMNS, bounds, strict=True))


def correct_curve(curve: pd.DataFrame, run_path: str | Path) -> pd.DataFrame:
    """The curve of a run with corrected columns: of `outcome_NAME` by label and exit.

    Args:
        curve: rows with the columns metric, label and exit.
        run_path: the run, with labels or without. The bootstrap has its seed.
    """
    labelled, seed = read_labelled(run_path), _seed_of(run_path)

    def rate(row) -> Corrected | None:
        if labelled is None or not row.metric.startswith("outcome_") or pd.isna(row.exit):
            return None
        is_in_X = labelled.where(exits=[row.exit], label=row.label)
        return labelled.rate(is_in_X, row.metric.removeprefix("outcome_"), seed=seed)

    return _with_columns(curve, rate)


def correct_comparison(
    comparison: pd.DataFrame, runs: Mapping[str, str | Path], seed: int = 0
) -> pd.DataFrame:
    """A table of shares of several models with corrected columns.

    Args:
        comparison: rows with the columns model, group, exit and outcome.
        runs: model -> its run, with labels or without.
        seed: of the bootstrap.
    """
    labelled_of = {model: read_labelled(path) for model, path in runs.items()}

    def rate(row) -> Corrected | None:
        labelled = labelled_of.get(row.model)
        if labelled is None:
            return None
        is_in_X = labelled.where(exits=[row.exit], group=row.group)
        return labelled.rate(is_in_X, row.outcome, seed=seed)

    return _with_columns(comparison, rate)


def _seed_of(run_path: str | Path) -> int:
    return read_record(run_path)["settings"].get("seed", 0)


def _with_columns(frame: pd.DataFrame, rate: Callable[[Any], Corrected | None]) -> pd.DataFrame:
    """A data frame with the corrected columns of each row; null where a row has no rate."""
    columns = [corrected_columns(rate(row)) for row in frame.itertuples(index=False)]
    return frame.assign(
        **{name: np.array([c[name] for c in columns], np.float64) for name in COLUMNS}
    )
