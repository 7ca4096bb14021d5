"""Intervals of a mean over training seeds: what other prompts, and other seeds, would have given.

Prompts are many and are resampled. Seeds are two or three: resampling them finds nothing beyond the
two outermost, and its intervals cover .75 and less. Their variance is therefore estimated, and
joined with that of the prompts under Student's quantile with Satterthwaite's degrees of freedom.
Seeds also differ because each errs on prompts of its own: the resampling of prompts has that part
already, and it is subtracted.

Coverage by simulation at 3 seeds of each of two arms: .93 to .98, whichever of prompts and seeds
varies more (`tests/stats/test_seeds.py`).

Source: Satterthwaite 1946 (Biometrics Bulletin 2).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import t as student

_LEVEL = 0.95


def widen_for_seeds(
    value_X: Float[np.ndarray, " X"],
    low_X: Float[np.ndarray, " X"],
    high_X: Float[np.ndarray, " X"],
    clusters: int,
    seeds: Sequence[Float[np.ndarray, "S X"]],
    explained: Sequence[Float[np.ndarray, " X"]] | None = None,
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Join 95% bounds that are of prompts alone with the variance between seeds.

    Where no group has two seeds the bounds stay what they are: they hold for these adapters only.

    Args:
        value_X: means over seeds, or differences of two such means.
        low_X: lower bounds, by resampling prompts; NaN stays NaN.
        high_X: upper bounds.
        clusters: how many clusters of prompts were resampled.
        seeds: the statistics of each seed of the one group, or of each of two that are compared.
        explained: how much of the variance between the seeds of a group is due to prompts; see
            `explained_by_prompts`. None takes 0: the interval is then too wide rather than too
            narrow.
    """
    explained = [np.zeros(len(value_X))] * len(seeds) if explained is None else explained
    repeated = [n for n, each_SX in enumerate(seeds) if len(each_SX) > 1]
    if not repeated or clusters < 2:
        return low_X, high_X
    between_GX = np.stack(
        [
            np.maximum(seeds[n].var(axis=0, ddof=1) - explained[n], 0) / len(seeds[n])
            for n in repeated
        ]
    )
    degrees_G1 = np.array([len(seeds[n]) - 1 for n in repeated], np.float64)[:, None]
    tail, of_prompts = (1 + _LEVEL) / 2, float(clusters - 1)

    def side(distance_X):
        within_X = (distance_X / student.ppf(tail, of_prompts)) ** 2
        total_X = within_X + between_GX.sum(axis=0)
        spread_X = within_X**2 / of_prompts + (between_GX**2 / degrees_G1).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            degrees_X = np.where(spread_X > 0, total_X**2 / spread_X, of_prompts)
        return student.ppf(tail, degrees_X) * np.sqrt(total_X)

    return value_X - side(value_X - low_X), value_X + side(high_X - value_X)


def explained_by_prompts(resampled_RSX: Float[np.ndarray, "R S X"]) -> Float[np.ndarray, " X"]:
    """The variance that S seeds would have on these prompts if all were equally good.

    Args:
        resampled_RSX: the statistic of each seed in R resamples of prompts, the same for all seeds.
    """
    apart_RSX = resampled_RSX - resampled_RSX.mean(axis=1, keepdims=True)
    return np.nanvar(apart_RSX, axis=0).sum(axis=0) / max(1, resampled_RSX.shape[1] - 1)


def spread_by_prompts(
    share_SN: Float[np.ndarray, "S N"], clusters_N: Shaped[np.ndarray, " N"]
) -> float:
    """What `explained_by_prompts` tends to for a mean over prompts, with ever more resamples.

    Args:
        share_SN: the statistic of each seed on each prompt.
        clusters_N: the cluster of each prompt.
    """
    apart_SN = share_SN - share_SN.mean(axis=0)
    place_N = np.unique(clusters_N.astype(str), return_inverse=True)[1]
    of_cluster_NC = np.eye(place_N.max() + 1)[place_N]
    moved_SC = (apart_SN - apart_SN.mean(axis=1, keepdims=True)) @ of_cluster_NC / len(clusters_N)
    return float((moved_SC**2).sum() / max(1, len(share_SN) - 1))
