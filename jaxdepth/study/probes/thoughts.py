"""Probes along a thought, from the token before it to the verdict that ends it.

thought_probes.parquet  probes where a thought begins, where it has been closed, at the verdict
thought_scores.parquet  out-of-fold scores of the first two at every token, by prompt
thoughts.parquet        how well these scores predict the verdict along the thought, and their fall

Thoughts are those of full depth in a run of `decide`, the first vote of each prompt. Is the verdict
readable before the thought (post hoc reasoning)? Does the score of refusal fall just before the
verdict, as Yin et al. 2025 (arXiv:2510.06036) found in reasoning models?
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Int

from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.probing.along import scores_along
from jaxdepth.probing.folds import CrossFitted, cross_fit
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.records import as_type
from jaxdepth.refusal.protocol import VERDICTS, Markers, open_thoughts
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.resampled import clusters_of, resampled_bounds
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.common_tables import one_row_each
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.evaluate import (
    CHOSEN,
    CONTENT,
    CrossValidation,
    Examples,
    Target,
    auroc_bounds,
    evaluate,
    folds_of,
)
from jaxdepth.study.probes.tables import THOUGHT_PROBES, THOUGHT_SCORES, THOUGHTS
from jaxdepth.study.run_directory import Run, read_frame, read_record
from jaxdepth.study.tables import Table
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE

OPENED, CLOSED, VERDICT = POSITIONS = "opened", "closed", "verdict"
FITTED_AT = (OPENED, CLOSED)  # positions whose probes score every token of the thought
POINTS = 11  # along each thought, from its first token to its last
PLACES = (OPENED, *(f"{p:.0%}" for p in np.linspace(0, 1, POINTS)), CLOSED, VERDICT)
AUROC, MEAN, FALL = "AUROC", "mean score", "fall to the verdict"


class _Protocol(TypedDict):
    """What is read of the protocol that a run records."""

    instruction: str
    close: str


@dataclass(frozen=True)
class Thoughts:
    """Prompts as full depth continued them: prompt | open | thought | close | verdict."""

    ids: list[list[int]]
    begins_N: Int[np.ndarray, " N"]  # index of the last token before the thought
    tokens_N: Int[np.ndarray, " N"]  # tokens of the thought alone

    @property
    def places_NP(self) -> Int[np.ndarray, "N P"]:
        """The token indices of POSITIONS."""
        ends_N = np.array([len(ids) for ids in self.ids]) - 1
        return np.stack([self.begins_N, ends_N - 1, ends_N], axis=1)


def read_thoughts(
    run_path: Path, prompts: Sequence[Prompt], conversations: ConversationEncoder
) -> Thoughts | None:
    """Read the thoughts of full depth about some prompts; None if the run has no thoughts.

    Args:
        run_path: a run of `decide` that `read_behaviour` has accepted.
        prompts: the prompts, which the run must have.
        conversations: of the model of that run.

    Raises:
        InputError: a table of the run is unfinished or damaged.
    """
    record = read_record(run_path)
    if record["settings"]["command"] != "decide" or TEXTS.name not in record["tables"]:
        return None
    depth, where = record["facts"]["depth"], f"{run_path}: run.json"
    protocol = as_type(record["settings"]["protocol"], _Protocol, f"{where}: protocol")
    recorded: dict = record["facts"]["markers"]
    markers = Markers(**{name: recorded[name] for name in Markers._fields if name in recorded})
    if len(markers.verdicts) != len(VERDICTS):
        raise InputError(
            f"{where} has {len(markers.verdicts)} verdict tokens, expected {len(VERDICTS)}: it is "
            "damaged, run the command again to another --out"
        )
    if markers.verdict_reads == "thought":
        raise InputError(
            f"{run_path}: its verdicts read the thought alone, which the residual streams of "
            "whole sequences do not show: choose a run in which they read the prompt too"
        )
    ids = [p.prompt_id for p in prompts]

    def first_votes(table: Table) -> pd.DataFrame:
        frame = read_frame(run_path, table)
        frame = frame[(frame["exit"] == depth) & (frame["vote"] == 0)]
        return one_row_each(frame, ids, f"{run_path}: the table {table.name} at full depth")

    thoughts, verdicts = first_votes(TEXTS)["thought_ids"], first_votes(VERDICT_TABLE)
    missing = int((verdicts["verdict"].isna() | thoughts.isna()).sum())
    if missing:
        raise InputError(
            f"{run_path}: {missing} of {len(ids)} prompts have no verdict at full depth, because "
            "activations were NaN or infinite: decide again with --dtype float32"
        )
    # A prompt on which the model abstained gets its most probable verdict.
    likely_N = verdicts[[f"p_{name}" for name in VERDICTS]].to_numpy().argmax(axis=1)
    chosen = [
        VERDICTS.index(name) if name in VERDICTS else likely
        for name, likely in zip(verdicts["verdict"], likely_N, strict=True)
    ]
    opened = open_thoughts(
        conversations, markers, protocol["instruction"], protocol["close"], prompts
    )
    sequences = [
        [*before, *map(int, thought), *markers.close, markers.verdicts[verdict]]
        for before, thought, verdict in zip(opened, thoughts, chosen, strict=True)
    ]
    begins_N = np.array([len(before) for before in opened]) - 1
    return Thoughts(sequences, begins_N, np.array([len(thought) for thought in thoughts]))


def probe_thoughts(
    run: Run,
    model: Mistral,
    thoughts: Thoughts,
    own: Examples,
    targets: Sequence[Target],
    validation: CrossValidation,
    batch_size: int,
    bar: ProgressBar,
) -> None:
    """Write the tables above; resume where an earlier attempt was stopped."""
    if run.finished(THOUGHTS.name):
        return
    sequences = Capture("thoughts", thoughts.ids, thoughts.places_NP)
    capture(run, model, sequences, batch_size, bar)
    streams = {name: read_stream(run.path, sequences.name, p) for p, name in enumerate(POSITIONS)}
    if not run.finished(THOUGHT_PROBES.name):
        tables = [
            evaluate(validation, name, own, x_JND, (), target)[0]
            for name, x_JND in streams.items()
            for target in targets
        ]
        run.write_table(THOUGHT_PROBES.name, pa.concat_tables(tables))
    if not run.finished(THOUGHT_SCORES.name):
        probes = [
            _TargetProbes.fit(validation, own, target, name, streams[name])
            for target in targets
            for name in FITTED_AT
        ]
        middle_JD = np.mean([x_JND.mean(axis=1) for x_JND in streams.values()], axis=0)
        batches = make_batches(thoughts.ids, batch_size, model.mesh)

        def score(batch: Batch) -> OnHost:
            return _score_batch(model, batch, thoughts, own, probes, middle_JD)

        in_parts(run, (THOUGHT_SCORES.name,), batches, score, bar)
    _write_measures(run, own)


@dataclass(frozen=True)
class _TargetProbes:
    """The cross-fitted probes of one target, from streams at one position."""

    target: Target
    fitted_at: str
    fold_M: Int[np.ndarray, " M"]
    fitted: CrossFitted

    @classmethod
    def fit(
        cls,
        validation: CrossValidation,
        own: Examples,
        target: Target,
        position: str,
        x_JND: Float[np.ndarray, "J N D"],
    ) -> "_TargetProbes":
        fold_M, _ = folds_of(validation, own, target)
        x_JMD = x_JND[:, target.rows_M]
        fitted = cross_fit(x_JMD, target.positive_M, fold_M, validation.strengths)
        return cls(target, position, fold_M, fitted)

    def row_of(self, n: int) -> int | None:
        """The row of prompt n among the target's prompts; None if it is not one of them."""
        rows = np.flatnonzero(self.target.rows_M == n)
        return int(rows[0]) if len(rows) else None


def _score_batch(
    model: Mistral,
    batch: Batch,
    thoughts: Thoughts,
    own: Examples,
    probes: Sequence[_TargetProbes],
    middle_JD: Float[np.ndarray, "J D"],
) -> OnHost:
    """Score every token of a batch, each prompt by the probes of the fold that it was tested in.

    Args:
        model: whose residual streams are scored.
        batch: sequences of `thoughts`.
        thoughts: of all prompts.
        own: the prompts.
        probes: one for each target and position of FITTED_AT.
        middle_JD: see `scores_along`.
    """
    rows_BT = [[probe.row_of(n) for probe in probes] for n in batch.padded_indices]
    folds_BT = [
        [0 if m is None else probe.fold_M[m] for probe, m in zip(probes, rows_T, strict=True)]
        for rows_T in rows_BT
    ]

    def at_folds(select: Callable[[CrossFitted], np.ndarray]) -> np.ndarray:
        return np.array(
            [[select(p.fitted)[:, f] for p, f in zip(probes, folds_T, strict=True)]
             for folds_T in folds_BT]
        )  # fmt: skip

    score_BTJS = to_host(
        scores_along(
            model,
            batch.tokens_BS,
            batch.lengths_B,
            at_folds(lambda fitted: fitted.weights_GFD),
            at_folds(lambda fitted: fitted.bias_GF),
            middle_JD,
        )
    )
    rows = []
    for b, n in enumerate(batch.indices):
        for t, probe in enumerate(probes):
            m = rows_BT[b][t]
            for layer, score_S in enumerate(score_BTJS[b, t] if m is not None else ()):
                rows.append(
                    {
                        "prompt_id": own.ids[n],
                        "target": probe.target.name,
                        "fitted_at": probe.fitted_at,
                        "layer": layer,
                        "positive": bool(probe.target.positive_M[m]),
                        "fold": int(probe.fold_M[m]),
                        "thought_tokens": int(thoughts.tokens_N[n]),
                        "scores": score_S[thoughts.begins_N[n] : batch.lengths_B[b]],
                    }
                )
    return lambda: [THOUGHT_SCORES.from_rows(rows)]


def _write_measures(run: Run, own: Examples) -> None:
    """Write `thoughts`: at the layer that most folds chose, over the prompts with a thought."""
    probes = read_frame(run.path, THOUGHT_PROBES)
    probes = probes[probes["probe"] == CHOSEN].set_index(["target", "position"])
    layer_of = {
        key: int(np.bincount(layers).argmax()) for key, layers in probes["chosen_layers"].items()
    }
    scores = read_frame(run.path, THOUGHT_SCORES)
    scores = scores[scores["thought_tokens"] > 0]
    rows = []
    for (target, fitted_at), frame in scores.groupby(["target", "fitted_at"], sort=False):
        layer = layer_of[target, fitted_at]
        frame = frame[frame["layer"] == layer]
        counts_RM = own.counts_RN[:, own.rows(frame["prompt_id"])]
        keys = {"target": target, "fitted_at": fitted_at, "layer": layer}
        rows += [keys | row for row in _measure_rows(frame, counts_RM)]
    run.write_table(THOUGHTS.name, THOUGHTS.from_rows(rows))


def _measure_rows(frame: pd.DataFrame, counts_RM: Float[np.ndarray, "R M"]) -> list[dict]:
    """The rows of one probe: AUROC and mean scores at every place, and the falls."""
    positive_M, fold_M = frame["positive"].to_numpy(), frame["fold"].to_numpy()
    scores = [score_S.astype(np.float64) for score_S in frame["scores"]]
    counted = list(zip(scores, frame["thought_tokens"], strict=True))
    score_MX = np.array([at_places(score_S, tokens) for score_S, tokens in counted])
    mean_M = np.array([np.mean(score_S[1 : 1 + tokens]) for score_S, tokens in counted])
    fall_M = mean_M - score_MX[:, PLACES.index(CLOSED)]
    rows = []
    if any(len(set(positive_M[fold_M == f])) == 2 for f in set(fold_M)):
        keys = {"metric": AUROC, "n": len(frame)}
        bounds = auroc_bounds(score_MX.T, positive_M, fold_M, counts_RM)
        rows += _estimate_rows(keys, PLACES, Estimate(*bounds))
    for side in (True, False):
        is_side_M = positive_M == side
        if is_side_M.any():
            keys = {"positive": side, "n": int(is_side_M.sum())}
            counts_RG = counts_RM[:, is_side_M]
            means = _means(score_MX[is_side_M], counts_RG)
            falls = _means(fall_M[is_side_M, None], counts_RG)
            rows += _estimate_rows(keys | {"metric": MEAN}, PLACES, means)
            rows += _estimate_rows(keys | {"metric": FALL}, (None,), falls)
    return rows


def at_places(scores: Sequence[float], thought_tokens: int) -> list[float]:
    """The scores of one prompt at PLACES; it must have a thought."""
    along = np.linspace(1, thought_tokens, POINTS).round().astype(int)
    return [scores[0], *(scores[k] for k in along), scores[-2], scores[-1]]


def _means(value_GX: Float[np.ndarray, "G X"], counts_RG: Float[np.ndarray, "R G"]) -> Estimate:
    """Means over prompts with their bootstrap intervals."""
    with np.errstate(invalid="ignore"):
        resampled_RX = (counts_RG @ value_GX) / counts_RG.sum(axis=1, keepdims=True)
    mean_X = value_GX.mean(axis=0)
    return Estimate(mean_X, *resampled_bounds(mean_X, resampled_RX, clusters_of(counts_RG)))


def _estimate_rows(keys: Mapping, places: Sequence[str | None], estimates: Estimate) -> list[dict]:
    return [
        {**keys, "place": place}
        | {"value": float(e.value), "low": float(e.low), "high": float(e.high)}
        for place, e in zip(places, estimates, strict=True)
    ]


def side_of(target: str, positive: bool) -> str:
    """What the prompts of one class of a target are."""
    sides = ("harmful", "harmless") if target == CONTENT else ("refused", "answered")
    return sides[not positive]
