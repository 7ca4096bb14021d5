"""Means of first-token measures by exit with 95% intervals, from the tables of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.prompts.prompt import HARMFUL, HARMLESS
from jaxdepth.stats.bands import mean_band
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import bootstrap_means, interval
from jaxdepth.study.common_tables import FIRST_TOKEN, check_once, prompt_rows
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.windows import Answered


@dataclass(frozen=True)
class DepthCurves:
    """First-token measures by exit, for each label that the prompts have."""

    exits: Int[np.ndarray, " E"]
    labels: tuple[str, ...]  # harmful, harmless and unlabelled: those that there are
    refusal_log_odds: dict[str, Estimate]  # by label; arrays of one entry an exit, in nats
    agrees_with_full: dict[str, Estimate]
    kl_to_full: dict[str, Estimate]
    difference: Estimate | None  # refusal log-odds, harmful minus harmless; None without both
    difference_band: Estimate | None  # the same, with bounds that hold for all exits at once


def depth_curves(run_path: str | Path, seed: int = 0) -> DepthCurves:
    """Average the first-token table of a run over prompts.

    Args:
        run_path: a finished sweep or probe run.
        seed: of the bootstrap, which resamples whole pairs of prompts.

    Raises:
        InputError: the run is not finished, or damaged.
    """
    rows = read_frame(run_path, FIRST_TOKEN)
    check_once(rows, ["prompt_id", "exit"], f"{run_path}: the table {FIRST_TOKEN.name}")
    by_exit = rows.pivot(index="prompt_id", columns="exit")
    prompts = prompt_rows(run_path, by_exit.index)
    clusters_N = prompts["pair_id"].fillna(prompts.index.to_series()).to_numpy(str)
    labels = tuple(sorted(prompts["label"].unique()))
    groups = [(prompts["label"] == label).to_numpy() for label in labels]
    counts = [len(set(clusters_N[group_N])) for group_N in groups]

    def estimates(measure: str) -> tuple[dict[str, Estimate], list[Estimate | None]]:
        """The means of each label; those of harmful minus harmless, by exit and as a band."""
        value_NE = by_exit[measure].to_numpy(np.float64)
        resampled_MRE = bootstrap_means(value_NE, clusters_N, groups, seed=seed)
        mean_ME = np.stack([value_NE[group_N].mean(axis=0) for group_N in groups])
        by_label = {
            label: Estimate(mean_E, *interval(resampled_RE, clusters=count), n=int(group_N.sum()))
            for label, mean_E, resampled_RE, count, group_N in zip(
                labels, mean_ME, resampled_MRE, counts, groups, strict=True
            )
        }
        if labels[:2] != (HARMFUL, HARMLESS):
            return by_label, [None, None]
        gap_E, resampled_RE = mean_ME[0] - mean_ME[1], resampled_MRE[0] - resampled_MRE[1]
        fewer = min(counts[:2])
        bounds = interval(resampled_RE, clusters=fewer), mean_band(gap_E, resampled_RE, fewer)
        n = int(groups[0].sum() + groups[1].sum())
        return by_label, [Estimate(gap_E, *pair, n=n) for pair in bounds]

    def agreement(group_N: Bool[np.ndarray, " N"]) -> Estimate:
        """The rate at which the top token is full depth's, known exactly at full depth itself.

        NaN at an exit where the logits of a prompt, or those of full depth, were not finite.
        """
        agrees_NE = by_exit["agrees_with_full"].to_numpy(np.float64)[group_N]
        is_known_E = np.isfinite(agrees_NE).all(axis=0)
        e = Answered(np.where(is_known_E, agrees_NE, 0), 1, clusters_N[group_N]).by_exit()
        is_full_E = (by_exit["kl_to_full"].abs() < 1e-6).all().to_numpy()
        bounds = (np.where(is_full_E, e.value, bound) for bound in (e.low, e.high))
        return Estimate(*(np.where(is_known_E, b, np.nan) for b in (e.value, *bounds)), n=e.n)

    refusal_log_odds, (difference, difference_band) = estimates("refusal_log_odds")
    return DepthCurves(
        exits=by_exit["refusal_log_odds"].columns.to_numpy(),
        labels=labels,
        refusal_log_odds=refusal_log_odds,
        agrees_with_full={
            label: agreement(group_N) for label, group_N in zip(labels, groups, strict=True)
        },
        kl_to_full=estimates("kl_to_full")[0],
        difference=difference,
        difference_band=difference_band,
    )


def pooled(by_label: Mapping[str, Estimate]) -> Float[np.ndarray, " E"]:
    """The mean over the prompts of all labels at every exit."""
    estimates = by_label.values()
    counts = np.array([e.n for e in estimates])
    return np.average([e.value for e in estimates], axis=0, weights=counts)
