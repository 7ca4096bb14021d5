"""Statistics of prompts with intervals from bootstrap resamples of whole pairs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import interval, wilson

Statistic = Callable[[Float[np.ndarray, "K N"]], Float[np.ndarray, " K"]]


@dataclass(frozen=True)
class Bootstrap:
    """How often each prompt is in each of K resamples."""

    counts_KN: Float[np.ndarray, "K N"]

    def estimate(self, statistic: Statistic, among_N: Bool[np.ndarray, " N"]) -> Estimate | None:
        """A statistic of some prompts; None where there are none, or it is not defined.

        Args:
            statistic: from weights of all prompts, in K rows, to K numbers.
            among_N: the prompts that count towards n.
        """
        if not among_N.any():
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(statistic(np.ones((1, len(among_N))))[0])
            if np.isnan(value):
                return None
            low, high = interval(statistic(self.counts_KN)[:, None])
        return Estimate(value, float(low[0]), float(high[0]), n=int(among_N.sum()))

    def share(
        self, is_N: Bool[np.ndarray, " N"], among_N: Bool[np.ndarray, " N"]
    ) -> Estimate | None:
        """A share of some prompts; at 0 and 1, where resamples do not vary, Wilson's interval."""
        share = self.estimate(lambda w: (w @ (is_N & among_N)) / (w @ among_N), among_N)
        if share is None or 0 < share.value < 1:
            return share
        n = int(among_N.sum())
        return Estimate(share.value, *wilson(round(share.value * n), n), n=n)
