"""Means by exit with 95% intervals, from the tables of a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import bootstrap_means, interval
from jaxdepth.study.run_directory import read_table


@dataclass(frozen=True)
class DepthCurves:
    """First-token measures by exit, for each label that the prompts have."""

    exits: Int[np.ndarray, " E"]
    labels: tuple[str, ...]  # harmful before harmless
    counts: dict[str, int]
    refusal_log_odds: dict[str, Estimate]
    agrees_with_full: dict[str, Estimate]
    kl_to_full: dict[str, Estimate]
    difference: Estimate | None  # refusal log-odds, harmful minus harmless; None with one label


def depth_curves(run_path: str | Path, seed: int = 0) -> DepthCurves:
    """Reads a run's tables and averages over prompts.

    Raises:
        InputError: the run is not finished or damaged.
    """
    prompts = {p["prompt_id"]: p for p in read_table(run_path, "prompts").to_pylist()}
    table = read_table(run_path, "first_token")
    ids, number_of_row = np.unique(table["prompt_id"].to_numpy(), return_inverse=True)
    exits, exit_of_row = np.unique(table["exit"].to_numpy(), return_inverse=True)
    label_N = np.array([prompts[i]["label"] for i in ids])
    clusters_N = [prompts[i]["pair_id"] or i for i in ids]
    labels = tuple(sorted(set(label_N.tolist())))
    groups = [label_N == label for label in labels]

    def estimates(column: str):
        values_NE = np.full((len(ids), len(exits)), np.nan)
        values_NE[number_of_row, exit_of_row] = table[column].to_numpy().astype(np.float64)
        draws = bootstrap_means(values_NE, clusters_N, groups, seed=seed)
        means = [values_NE[group].mean(axis=0) for group in groups]
        by_label = {
            label: Estimate(mean, *interval(d))
            for label, mean, d in zip(labels, means, draws, strict=True)
        }
        difference = None
        if len(labels) == 2:
            difference = Estimate(means[0] - means[1], *interval(draws[0] - draws[1]))
        return by_label, difference

    refusal, difference = estimates("refusal_log_odds")
    return DepthCurves(
        exits=exits,
        labels=labels,
        counts={label: int(g.sum()) for label, g in zip(labels, groups, strict=True)},
        refusal_log_odds=refusal,
        agrees_with_full=estimates("agrees_with_full")[0],
        kl_to_full=estimates("kl_to_full")[0],
        difference=difference,
    )
