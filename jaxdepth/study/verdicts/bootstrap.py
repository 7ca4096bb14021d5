"""Statistics of prompts with intervals from bootstrap resamples of whole pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxdepth.stats.bands import mean_band
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.resampled import UNIT, resampled_bounds, widen

Statistic = Callable[[Float[np.ndarray, "K N"]], Float[np.ndarray, " K"]]


@dataclass(frozen=True)
class Bootstrap:
    """How often each prompt is in each of K resamples of whole clusters."""

    counts_KN: Float[np.ndarray, "K N"]
    clusters_N: Shaped[np.ndarray, " N"]

    @classmethod
    def of(cls, clusters_N: Sequence, seed: int) -> "Bootstrap":
        """Resample clusters, such as pairs of prompts."""
        return cls(resample_counts(clusters_N, seed=seed), np.asarray(clusters_N, object))

    def clusters_among(self, among_N: Bool[np.ndarray, " N"]) -> int:
        """The number of clusters that some prompts are of."""
        return len(set(self.clusters_N[among_N].tolist()))

    def estimate(self, statistic: Statistic, among_N: Bool[np.ndarray, " N"]) -> Estimate | None:
        """A statistic in 0..1 of some prompts; None where there are none, or it is not defined.

        Its bounds are NaN where the prompts are of too few clusters, and never without width.

        Args:
            statistic: from weights of all prompts, in K rows, to K numbers.
            among_N: the prompts that count towards n.
        """
        if not among_N.any():
            return None
        value, resampled_K = self._resample(statistic)
        if np.isnan(value):
            return None
        clusters, value_1 = self.clusters_among(among_N), np.array([value])
        low_1, high_1 = resampled_bounds(value_1, resampled_K[:, None], clusters, UNIT)
        return Estimate(value, float(low_1[0]), float(high_1[0]), n=int(among_N.sum()))

    def band(
        self, statistics: Sequence[Statistic], among: Sequence[Bool[np.ndarray, " N"]]
    ) -> list[Estimate | None]:
        """Statistics in 0..1, such as one an exit, with bounds that hold for all of them at once.

        Args:
            statistics: each from weights of all prompts, in K rows, to K numbers.
            among: the prompts that count towards each.
        """
        sampled = [self._resample(statistic) for statistic in statistics]
        defined = [x for x, (value, _) in enumerate(sampled) if not np.isnan(value)]
        estimates: list[Estimate | None] = [None] * len(sampled)
        if not defined:
            return estimates
        value_X = np.array([sampled[x][0] for x in defined])
        resampled_KX = np.stack([sampled[x][1] for x in defined], axis=1)
        clusters = min(self.clusters_among(among[x]) for x in defined)
        bounds = mean_band(value_X, resampled_KX, clusters)
        low_X, high_X = widen(value_X, *bounds, clusters, UNIT)
        for x, value, low, high in zip(defined, value_X, low_X, high_X, strict=True):
            n = int(among[x].sum())
            estimates[x] = Estimate(float(value), max(0.0, low), min(1.0, high), n=n)
        return estimates

    def share(
        self, is_N: Bool[np.ndarray, " N"], among_N: Bool[np.ndarray, " N"]
    ) -> Estimate | None:
        """A share of some prompts."""
        return self.estimate(lambda w: (w @ (is_N & among_N)) / (w @ among_N), among_N)

    def _resample(self, statistic: Statistic) -> tuple[float, Float[np.ndarray, " K"]]:
        """A statistic, and the same in every resample; NaN where it is not defined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(statistic(np.ones((1, self.counts_KN.shape[1])))[0])
            return value, statistic(self.counts_KN)
