"""Statistics of an arm at every exit: by seed, and in bootstrap resamples of whole pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxdepth.stats.bands import mean_band
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.resampled import DIFFERENCE, UNIT, resampled_bounds
from jaxdepth.stats.seeds import widen_for_seeds
from jaxdepth.stats.sufficiency import prompts_to_show


@dataclass(frozen=True)
class Sampled:
    """A share at E exits, or a difference of two, in the resamples that all arms share.

    The value is a mean over seeds. Its interval is of other prompts and, where an arm has several
    seeds, of other seeds too.
    """

    value_E: Float[np.ndarray, " E"]
    resampled_RE: Float[np.ndarray, "R E"]  # the mean over seeds in each resample of pairs
    seeds: tuple[Float[np.ndarray, "S E"], ...]  # by seed, of the arm or of both
    clusters_E: Int[np.ndarray, " E"]  # pairs behind it
    n_E: Int[np.ndarray, " E"]  # prompts behind it
    value_range: tuple[float, float] = UNIT

    def __sub__(self, other: "Sampled") -> "Sampled":
        """The difference, paired by prompt."""
        return Sampled(
            self.value_E - other.value_E,
            self.resampled_RE - other.resampled_RE,
            self.seeds + other.seeds,
            np.minimum(self.clusters_E, other.clusters_E),
            np.minimum(self.n_E, other.n_E),
            DIFFERENCE,
        )

    def estimate(self) -> Estimate:
        """The value at every exit with its 95% interval; NaN bounds where pairs are too few."""
        low_E, high_E = np.full((2, len(self.value_E)), np.nan)
        for e in np.flatnonzero(np.isfinite(self.value_E)):
            at, clusters = slice(e, e + 1), int(self.clusters_E[e])
            value_1, range_ = self.value_E[at], self.value_range
            bounds = resampled_bounds(value_1, self.resampled_RE[:, at], clusters, range_)
            bounds = widen_for_seeds(
                value_1, *bounds, clusters, [each_SE[:, at] for each_SE in self.seeds]
            )
            low_E[e], high_E[e] = (float(bound[0]) for bound in bounds)
        least, largest = self.value_range
        n = int(self.n_E.max(initial=0))
        return Estimate(self.value_E, low_E.clip(min=least), high_E.clip(max=largest), n=n)

    def error_E(self) -> Float[np.ndarray, " E"]:
        """The standard error that is due to prompts."""
        clusters_E = np.maximum(self.clusters_E, 2)
        return np.nanstd(self.resampled_RE, axis=0) * np.sqrt(clusters_E / (clusters_E - 1))

    def prompts_to_show(self, difference: float, e: int) -> int | None:
        """How many prompts would show so large a difference at an exit; see `stats.sufficiency`."""
        return prompts_to_show(difference, float(self.error_E()[e]), int(self.n_E[e]))

    def worst_drop(self, exits: Sequence[int]) -> Estimate:
        """The lowest of the values at some exits minus that at the last exit.

        The bounds come from a band that holds for all of them at once: they are those of the exit
        whose lower bound is lowest.

        Args:
            exits: indices of exits before the last one.
        """
        drop_RE = self.resampled_RE[:, list(exits)] - self.resampled_RE[:, -1:]
        drop_E = self.value_E[list(exits)] - self.value_E[-1]
        clusters = int(self.clusters_E.min())
        seeds = [each_SE[:, list(exits)] - each_SE[:, -1:] for each_SE in self.seeds]
        bounds = mean_band(drop_E, drop_RE, clusters)
        low_E, high_E = widen_for_seeds(drop_E, *bounds, clusters, seeds)
        worst = int(np.argmin(np.where(np.isnan(low_E), drop_E, low_E)))
        return Estimate(drop_E[worst], low_E[worst], high_E[worst], n=int(self.n_E.min()))


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
    counts_RG = counts_RN[:, is_in_N]

    def over(counts_KG) -> Float[np.ndarray, "K S E"]:
        above, below = (
            (counts_KG @ np.moveaxis(x_SNE, 1, 0)[is_in_N].reshape(-1, S * E)).reshape(-1, S, E)
            for x_SNE in (numerator_SNE, denominator_SNE)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return above / below

    value_SE = over(np.ones((1, int(is_in_N.sum()))))[0]
    any_NE = denominator_SNE.any(axis=0)
    clusters_E = [len(np.unique(cluster_N[any_NE[:, e]])) for e in range(E)]
    n_E = np.rint(denominator_SNE.sum(axis=1).mean(axis=0)).astype(int)
    return Sampled(
        value_SE.mean(axis=0),
        over(counts_RG).mean(axis=1),
        (value_SE,),
        np.array(clusters_E, int),
        n_E,
    )
