"""The sample to label: stratified, at random, and the same for every rater.

Strata are a label of the prompts, a band of exits and an outcome. Within a stratum answers are
drawn without replacement, each with the same probability. Every label and band gets the same number
of answers. Of these, an outcome gets a number that follows the square root of its share (the power
allocation of Bankier 1988), and at least `MIN_DRAWN`: between equal numbers, which measure rare
outcomes best, and proportional ones, which measure common ones best.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from jaxdepth.errors import InputError, at_least
from jaxdepth.study.common_tables import check_once
from jaxdepth.study.labelling.answers import KEY, text_digest
from jaxdepth.study.labelling.tables import LABEL_PLAN
from jaxdepth.study.run_directory import Run, read_frame, read_record

_STRATUM = r"\S+ \d{1,9}(-\d{1,9})? \S+"
MIN_DRAWN = 3  # answers of each stratum, or all if it has fewer


def exit_bands(exits: Sequence[int], depth: int, count: int) -> list[tuple[int, ...]]:
    """Bands of neighbouring exits, of about equal size; full depth is a band of its own."""
    early = [e for e in sorted(exits) if e < depth]
    bands = [tuple(map(int, part)) for part in np.array_split(early, max(1, count)) if len(part)]
    return bands + ([(depth,)] if depth in exits else [])


def allocate(
    sizes_S: Int[np.ndarray, " S"], cell_S: Int[np.ndarray, " S"], total: int
) -> Int[np.ndarray, " S"]:
    """How many answers to draw from each of S strata; no stratum gets less for a larger total.

    Args:
        sizes_S: the number of answers in each stratum.
        cell_S: the label and band of each, as a number; cells get equal parts.
        total: how many to draw in all.

    Raises:
        InputError: the total is too small for `MIN_DRAWN` of each.
    """
    drawn_S = np.minimum(sizes_S, MIN_DRAWN)
    if total < drawn_S.sum():
        raise InputError(
            f"n is {total}, but the answers have {len(sizes_S)} strata (label, band of exits, "
            f"outcome): draw at least {drawn_S.sum()}, or use fewer --bands"
        )
    root_S = np.sqrt(sizes_S)
    target_S = root_S / np.bincount(cell_S, root_S)[cell_S]
    for _ in range(min(total, int(sizes_S.sum())) - int(drawn_S.sum())):
        need_S = np.where(drawn_S < sizes_S, target_S / (drawn_S + 0.5), -1.0)
        drawn_S[np.argmax(need_S)] += 1
    return drawn_S


def draw_plan(
    answers: pd.DataFrame, bands: Sequence[tuple[int, ...]], n: int, seed: int
) -> pd.DataFrame:
    """Draw a sample of answers: a data frame with the columns of the table label_plan.

    Every beginning of the order is a random sample of each stratum, and its first answers are of
    all strata, one each.
    """
    at_least(1, n=n)
    names_X = _strata(answers, bands)
    strata, stratum_X = np.unique(names_X, return_inverse=True)
    sizes_S = np.bincount(stratum_X)
    cells = [name.rsplit(" ", 1)[0] for name in strata]
    drawn_S = allocate(sizes_S, np.unique(cells, return_inverse=True)[1], n)
    parts = []
    for s, name in enumerate(strata):
        rng = np.random.default_rng([seed, zlib.crc32(str(name).encode())])
        chosen = rng.permutation(np.flatnonzero(stratum_X == s))[: drawn_S[s]]
        parts.append((chosen, np.arange(len(chosen)), rng.random(len(chosen))))
    index_L, place_L, shuffle_L = (np.concatenate(column) for column in zip(*parts, strict=True))
    order_L = np.lexsort((shuffle_L, place_L > 0))  # one of each stratum, then the others
    index_L = index_L[order_L]
    stratum_L = stratum_X[index_L]
    plan = answers.iloc[index_L][KEY].reset_index(drop=True)
    plan["stratum"] = strata[stratum_L]
    plan["stratum_size"] = sizes_S[stratum_L]
    plan["inclusion_probability"] = (drawn_S / sizes_S)[stratum_L]
    plan["text_sha256"] = [text_digest(text) for text in answers["text"].iloc[index_L]]
    return _with_positions(plan)


def extend_plan(plan: pd.DataFrame, larger: pd.DataFrame) -> pd.DataFrame:
    """A larger sample with the same beginning: the answers of `plan` in their order, then more.

    Raises:
        InputError: `larger` lacks some of them: the run's outcomes or the seed are others.
    """
    order = larger.merge(plan[[*KEY, "position"]], on=KEY, how="left", suffixes=("_new", ""))
    if order["position"].notna().sum() != len(plan):
        raise InputError(
            "the sample cannot be extended: its run was judged again, or --seed or --bands differ"
        )
    return _with_positions(order.sort_values(["position", "position_new"], ignore_index=True))


def open_plan(
    run_path: str | Path, answers: pd.DataFrame, n: int, bands: int, seed: int
) -> pd.DataFrame:
    """The stored sample of a run; it is drawn if there is none, and extended if `n` is larger.

    Raises:
        InputError: as `allocate` and `extend_plan`; or a text of the sample has changed since.
    """
    record = read_record(run_path)
    at_least(1, bands=bands)
    depth = int(record["facts"]["depth"])
    parts = exit_bands(answers["exit"].unique().tolist(), depth, bands)
    if LABEL_PLAN.name in record["tables"]:
        plan = read_plan(run_path, answers)
        if min(n, len(answers)) <= len(plan):
            return plan
        plan = extend_plan(plan, draw_plan(answers, parts, n, seed))
    else:
        plan = draw_plan(answers, parts, n, seed)
    Run(Path(run_path), record).write_table(LABEL_PLAN.name, LABEL_PLAN.from_frame(plan))
    return plan


def read_plan(run_path: str | Path, answers: pd.DataFrame) -> pd.DataFrame:
    """The stored sample of a run, once its texts are compared with their digests.

    Raises:
        InputError: an answer of it is missing or has another text now.
    """
    plan = read_frame(run_path, LABEL_PLAN)
    check_once(plan, KEY, f"{run_path}: the table {LABEL_PLAN.name}")
    if not plan["stratum"].str.fullmatch(_STRATUM).all() or (plan["stratum_size"] < 1).any():
        raise InputError(
            f"{run_path}: the table {LABEL_PLAN.name} has other strata than are drawn: it is "
            "damaged; remove labels/, label_plan.parquet and labels.parquet, and label again"
        )
    now = plan[KEY].merge(answers[[*KEY, "text"]], on=KEY, how="left")["text"]
    for row, text in zip(plan.itertuples(index=False), now, strict=True):
        if not isinstance(text, str) or text_digest(text) != row.text_sha256:
            raise InputError(
                f"{run_path}: the answer to {row.prompt_id} at exit {row.exit} (sample "
                f"{row.sample}) is not the text that was drawn to be labelled: remove labels/, "
                "label_plan.parquet and labels.parquet, and label again"
            )
    return plan


def _strata(answers: pd.DataFrame, bands: Sequence[tuple[int, ...]]) -> Shaped[np.ndarray, " X"]:
    """The stratum of each of X answers."""
    name_of = {
        e: str(band[0]) if len(band) == 1 else f"{band[0]}-{band[-1]}"
        for band in bands
        for e in band
    }
    names = answers["label"] + " " + answers["exit"].map(name_of) + " " + answers["outcome"]
    return names.to_numpy(str)


def _with_positions(plan: pd.DataFrame) -> pd.DataFrame:
    return plan.assign(position=np.arange(len(plan)))[LABEL_PLAN.schema.names]
