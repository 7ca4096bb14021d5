"""How far judges agree: Cohen's kappa with its interval, and confusion tables."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from jaxdepth.stats.agreement import cohens_kappa

RUN = "run"  # the outcomes that the run itself has


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
            labels, others = here[first].tolist(), here[second].tolist()
            kappa = cohens_kappa(labels, others, cluster_N[is_here_N], seed=seed)
            yield {
                "first": first,
                "second": second,
                "exit": None if exit_layer is None else int(exit_layer),
                "n": len(here),
                "prompts": here["prompt_id"].nunique(),
                "agreement": float((here[first] == here[second]).mean()),
                "kappa": _or_null(kappa.value),
                "low": _or_null(kappa.low),
                "high": _or_null(kappa.high),
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


def _or_null(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
