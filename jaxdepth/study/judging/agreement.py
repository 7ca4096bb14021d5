"""How far judges agree: Cohen's kappa with its interval, and confusion tables."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.intervals import interval, resample_counts

RUN = "run"  # the outcomes that the run itself has
_MIN_CLUSTERS = 10
_OUTCOMES = list(map(str, Outcome))


def cohens_kappa(tables_XKK: Float[np.ndarray, "X K K"]) -> Float[np.ndarray, " X"]:
    """Cohen's kappa of tables of counts; NaN where both judges use one class alone.

    Source: Cohen 1960.
    """
    total_X = tables_XKK.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed_X = np.trace(tables_XKK, axis1=1, axis2=2) / total_X
        margins = (tables_XKK.sum(axis=axis) / total_X[:, None] for axis in (1, 2))
        expected_X = np.prod(list(margins), axis=0).sum(axis=1)
        return np.where(expected_X < 1, (observed_X - expected_X) / (1 - expected_X), np.nan)


def agreement_rows(
    outcomes: pd.DataFrame, judges: Sequence[str], clusters_N: Sequence[str], seed: int
) -> Iterator[dict]:
    """The rows of the agreement table.

    Args:
        outcomes: an answer a row: `prompt_id`, `exit`, and a column of outcomes for each judge.
        judges: the names of these columns.
        clusters_N: the cluster of each answer's prompt, resampled as one.
        seed: of the bootstrap.
    """
    cluster_N = np.asarray(clusters_N, dtype=object)
    exits = outcomes["exit"]
    for first, second in combinations(judges, 2):
        for exit_layer in (None, *sorted(exits.dropna().unique())):
            is_here_N = (exits == exit_layer).to_numpy() | (exit_layer is None)
            is_here_N = is_here_N & outcomes[[first, second]].notna().all(axis=1).to_numpy()
            here = outcomes[is_here_N]
            if here.empty:
                continue
            tables_CKK = _cluster_tables(here, first, second, cluster_N[is_here_N])
            kappa, low, high = _kappa(tables_CKK, seed)
            yield {
                "first": first,
                "second": second,
                "exit": None if exit_layer is None else int(exit_layer),
                "n": len(here),
                "prompts": here["prompt_id"].nunique(),
                "agreement": float(np.trace(tables_CKK.sum(axis=0)) / len(here)),
                "kappa": kappa,
                "low": low,
                "high": high,
            }


def confusion_rows(outcomes: pd.DataFrame, judges: Sequence[str]) -> Iterator[dict]:
    """The rows of the confusion table: pairs of outcomes that occur."""
    for first, second in combinations(judges, 2):
        counts = outcomes.groupby([first, second]).size()
        for (outcome_first, outcome_second), n in counts.items():
            yield {
                "first": first,
                "second": second,
                "outcome_first": outcome_first,
                "outcome_second": outcome_second,
                "n": n,
            }


def _cluster_tables(
    outcomes: pd.DataFrame, first: str, second: str, clusters_N: np.ndarray
) -> Float[np.ndarray, "C K K"]:
    """The confusion of two judges in each cluster of prompts."""
    names, cluster_N = np.unique(clusters_N.astype(str), return_inverse=True)
    index = {outcome: place for place, outcome in enumerate(_OUTCOMES)}
    places = (outcomes[judge].map(index).to_numpy() for judge in (first, second))
    tables_CKK = np.zeros((len(names), len(index), len(index)))
    np.add.at(tables_CKK, (cluster_N, *places), 1)
    return tables_CKK


def _kappa(
    tables_CKK: Float[np.ndarray, "C K K"], seed: int
) -> tuple[float | None, float | None, float | None]:
    """Kappa with its interval; None for what is not defined or cannot be told."""
    kappa = float(cohens_kappa(tables_CKK.sum(axis=0)[None])[0])
    if np.isnan(kappa):
        return None, None, None
    C, K = tables_CKK.shape[:2]
    if C < _MIN_CLUSTERS:
        return kappa, None, None
    counts_RC = resample_counts([str(c) for c in range(C)], seed=seed)
    resampled_R = cohens_kappa((counts_RC @ tables_CKK.reshape(C, -1)).reshape(-1, K, K))
    if not np.isfinite(resampled_R).any():
        return kappa, None, None
    low, high = (float(bound[0]) for bound in interval(resampled_R[:, None]))
    return (kappa, None, None) if low == high else (kappa, low, high)
