"""Agreement of two raters on the same items."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import interval
from jaxdepth.stats.prediction_powered import cluster_weights


def cohens_kappa(
    first_N: Sequence[str],
    second_N: Sequence[str],
    clusters_N: Sequence | Shaped[np.ndarray, " N"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Cohen's kappa of two raters' labels, with a 95% interval.

    The interval is of a Bayesian bootstrap of whole clusters, with one label in all spread evenly
    over the pairs of labels, so that raters who always agreed have no interval of zero width. NaN
    where all labels are the same one: chance alone explains that.

    Args:
        first_N: labels of N items by one rater.
        second_N: by the other.
        clusters_N: the cluster of each item, such as the pair of its prompt.
        resamples: R.
        seed: of the bootstrap.

    Source: Cohen 1960; Rubin 1981 for the bootstrap.
    """
    names = sorted({*first_N, *second_N})
    k, n = len(names), len(first_N)
    if k < 2:
        return Estimate(np.nan, np.nan, np.nan, n=n)
    cell_N = [names.index(a) * k + names.index(b) for a, b in zip(first_N, second_N, strict=True)]
    cluster_N = np.unique(np.asarray(clusters_N).astype(str), return_inverse=True)[1]
    counts_CK = np.zeros((cluster_N.max() + 1, k * k))
    np.add.at(counts_CK, (cluster_N, np.array(cell_N)), 1)
    prior_RK = np.random.default_rng([seed, 1]).gamma(1 / k**2, size=(resamples, k * k))
    tables_RK = cluster_weights(len(counts_CK), resamples, seed) @ counts_CK + prior_RK
    value = float(_kappa(counts_CK.sum(axis=0)[None], k)[0])
    (low,), (high,) = interval(_kappa(tables_RK, k)[:, None], clusters=len(counts_CK))
    return Estimate(value, min(float(low), value), max(float(high), value), n=n)


def _kappa(tables_RK: Float[np.ndarray, "R K"], k: int) -> Float[np.ndarray, " R"]:
    """Kappa of R tables of k x k cells."""
    share_Rkk = (tables_RK / tables_RK.sum(axis=1, keepdims=True)).reshape(-1, k, k)
    observed_R = np.trace(share_Rkk, axis1=1, axis2=2)
    expected_R = (share_Rkk.sum(axis=1) * share_Rkk.sum(axis=2)).sum(axis=1)
    return (observed_R - expected_R) / (1 - expected_R)
