"""The outcome of every answer of a run, as an array."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from jaxdepth.errors import InputError
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.common_tables import GENERATIONS, check_once, prompt_rows
from jaxdepth.study.labelling.answers import DECIDED
from jaxdepth.study.run_directory import read_frame


@dataclass(frozen=True)
class Outcomes:
    """The outcome of each answer of N prompts, M samples and E exits."""

    outcome_NME: Shaped[np.ndarray, "N M E"]
    labels_N: Shaped[np.ndarray, " N"]  # harmful, harmless or unlabelled
    clusters_N: Shaped[np.ndarray, " N"]  # its pair, or itself
    prompt_ids: list[str]  # N, sorted
    exits: list[int]  # E, ascending


def read_outcomes(run_path: str | Path) -> Outcomes:
    """The outcomes of a sweep's generations, or of the answers where a model decided first.

    Raises:
        InputError: the run is not finished, or damaged.
    """
    table, sample, outcome = GENERATIONS, "sample", "outcome"
    if (Path(run_path) / f"{DECIDED.name}.parquet").is_file():
        table, sample, outcome = DECIDED, "vote", "answer_outcome"
    frame = read_frame(run_path, table)
    check_once(frame, ["prompt_id", sample, "exit"], f"{run_path}: the table {table.name}")
    size = frame[["prompt_id", sample, "exit"]].nunique().prod()
    is_known = frame[outcome].isna() | frame[outcome].isin([*map(str, Outcome)])
    if len(frame) != size or not size or not is_known.all():
        raise InputError(
            f"{run_path}: the table {table.name} lacks answers to some prompts at some exits, or "
            "has other outcomes than there are: it is damaged, run the command again to another "
            "--out"
        )
    wide = frame.pivot(index="prompt_id", columns=[sample, "exit"], values=outcome)
    wide = wide.sort_index(axis="columns")
    samples, exits = (level.tolist() for level in wide.columns.levels)
    prompts = prompt_rows(run_path, wide.index)
    return Outcomes(
        outcome_NME=wide.to_numpy(object).reshape(len(wide), len(samples), len(exits)),
        labels_N=prompts["label"].to_numpy(object),
        clusters_N=prompts["pair_id"].fillna(prompts.index.to_series()).to_numpy(object),
        prompt_ids=wide.index.tolist(),
        exits=exits,
    )
