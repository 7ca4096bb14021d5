"""Statistics of an arm at every exit: by seed, and in bootstrap resamples of whole pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdepth.stats.bands import mean_band
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.resampled import DIFFERENCE, UNIT, resampled_bounds
from jaxdepth.stats.seeds import explained_by_prompts, widen_for_seeds
from jaxdepth.stats.sufficiency import prompts_to_show


class Seeds(NamedTuple):
    """A statistic of every seed of one arm."""

    value_SE: Float[np.ndarray, "S E"]
    resampled_RSE: Float[np.ndarray, "R S E"]  # in each resample of pairs

    def minus_last(self, exits: Sequence[int]) -> "Seeds":
        """The statistic at some exits minus that at the last one."""
        return Seeds(
            self.value_SE[:, list(exits)] - self.value_SE[:, -1:],
            self.resampled_RSE[..., list(exits)] - self.resampled_RSE[..., -1:],
        )


@dataclass(frozen=True)
class Sampled:
    """A share at E exits, or a difference of two, in the resamples that all arms share.

    The value is a mean over seeds. Its interval is of other prompts and, where an arm has several
    seeds, of other seeds too.
    """

    seeds: tuple[Seeds, ...]  # of the arm, or of the two that are compared
    clusters_E: Int[np.ndarray, " E"]  # pairs behind it
    n_E: Int[np.ndarray, " E"]  # prompts behind it
    value_range: tuple[float, float] = UNIT

    def __sub__(self, other: "Sampled") -> "Sampled":
        """The difference of two arms, paired by prompt."""
        return Sampled(
            self.seeds + other.seeds,
            np.minimum(self.clusters_E, other.clusters_E),
            np.minimum(self.n_E, other.n_E),
            DIFFERENCE,
        )

    @property
    def value_E(self) -> Float[np.ndarray, " E"]:
        """The mean over seeds, or the difference of two such means."""
        first, *others = (seeds.value_SE.mean(axis=0) for seeds in self.seeds)
        return first - sum(others)

    @property
    def resampled_RE(self) -> Float[np.ndarray, "R E"]:
        """The same in each resample."""
        means = (seeds.resampled_RSE.mean(axis=1, dtype=np.float64) for seeds in self.seeds)
        first, *others = means
        return first - sum(others)

    def estimate(self) -> Estimate:
        """The value at every exit with its 95% interval; NaN bounds where pairs are too few."""
        value_E, resampled_RE = self.value_E, self.resampled_RE
        low_E, high_E = np.full((2, len(value_E)), np.nan)
        for e in np.flatnonzero(np.isfinite(value_E)):
            at, clusters = slice(e, e + 1), int(self.clusters_E[e])
            bounds = resampled_bounds(value_E[at], resampled_RE[:, at], clusters, self.value_range)
            low_E[e], high_E[e] = (
                float(bound_1[0])
                for bound_1 in _widen(
                    value_E[at],
                    bounds,
                    clusters,
                    [Seeds(s.value_SE[:, at], s.resampled_RSE[..., at]) for s in self.seeds],
                )
            )
        least, largest = self.value_range
        n = int(self.n_E.max(initial=0))
        return Estimate(value_E, low_E.clip(min=least), high_E.clip(max=largest), n=n)

    def prompts_to_show(self, difference: float, e: int) -> int | None:
        """How many prompts would show so large a difference at an exit; see `stats.sufficiency`."""
        clusters = max(2, int(self.clusters_E[e]))
        error = np.nanstd(self.resampled_RE[:, e]) * np.sqrt(clusters / (clusters - 1))
        return prompts_to_show(difference, float(error), int(self.n_E[e]))

    def worst_drop(self, exits: Sequence[int]) -> Estimate:
        """The lowest of the values at some exits minus that at the last exit.

        The bounds come from a band that holds for all of them at once: they are those of the exit
        whose lower bound is lowest.

        Args:
            exits: indices of exits before the last one.
        """
        seeds = tuple(each.minus_last(exits) for each in self.seeds)
        clusters, n = int(self.clusters_E.min()), int(self.n_E.min())
        drop = Sampled(seeds, self.clusters_E[list(exits)], self.n_E[list(exits)], DIFFERENCE)
        drop_E = drop.value_E
        bounds = mean_band(drop_E, drop.resampled_RE, clusters)
        low_E, high_E = _widen(drop_E, bounds, clusters, seeds)
        worst = int(np.argmin(np.where(np.isnan(low_E), drop_E, low_E)))
        return Estimate(drop_E[worst], low_E[worst], high_E[worst], n=n)


def _widen(value_X, bounds, clusters: int, seeds: Sequence[Seeds]):
    """Bounds of prompts alone, joined with the variance between seeds."""
    low_X, high_X = bounds
    explained = [explained_by_prompts(s.resampled_RSE) for s in seeds]
    values = [s.value_SE for s in seeds]
    return widen_for_seeds(value_X, low_X, high_X, clusters, values, explained)


def sample_ratio(
    numerator_SNE: Float[np.ndarray, "S N E"],
    denominator_SNE: Float[np.ndarray, "S N E"],
    counts_RN: Float[np.ndarray, "R N"],
    cluster_N: Int[np.ndarray, " N"],
) -> Sampled:
    """A ratio of sums over prompts, such as a share of some of them, for S seeds of an arm.

    Args:
        numerator_SNE: what is summed above; 0 where the denominator is 0.
        denominator_SNE: what is summed below, 0 or 1.
        counts_RN: how often each prompt is in each resample.
        cluster_N: the number of the pair of each prompt.
    """
    S, _, E = numerator_SNE.shape
    is_in_N = denominator_SNE.any(axis=(0, 2))

    def over(counts_KG) -> Float[np.ndarray, "K S E"]:
        above, below = (
            (counts_KG @ np.moveaxis(x_SNE, 1, 0)[is_in_N].reshape(-1, S * E)).reshape(-1, S, E)
            for x_SNE in (numerator_SNE, denominator_SNE)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return above / below

    value_SE = over(np.ones((1, int(is_in_N.sum()))))[0]
    any_NE = np.asarray(denominator_SNE.any(axis=0))
    clusters_E = [len(np.unique(cluster_N[any_NE[:, e]])) for e in range(E)]
    n_E = np.rint(denominator_SNE.sum(axis=1).mean(axis=0)).astype(int)
    return Sampled((Seeds(value_SE, over(counts_RN[:, is_in_N])),), np.array(clusters_E, int), n_E)
