"""McNemar's test where prompts come in clusters, such as the two prompts of a pair.

McNemar's exact test takes each discordant prompt as one toss of a coin. Prompts of a pair are not
independent: with whole pairs that change together it rejects a true null hypothesis far too often.
Here the difference of a whole cluster is one toss: under the null hypothesis its sign is arbitrary.

Source: the permutation test for paired clusters, Gail et al. 1996 (Statistics in Medicine 15);
McNemar 1947 is its case of clusters of one.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdepth.errors import InputError


def cluster_mcnemar(
    first_N: Bool[np.ndarray, " N"],
    second_N: Bool[np.ndarray, " N"],
    clusters_N: Sequence[Hashable] | Shaped[np.ndarray, " N"],
) -> float:
    """Exact two-sided p-value of McNemar's test with whole clusters swapped.

    The statistic is the number of prompts with only the first minus those with only the second.
    Its null distribution, over all signs of the clusters' differences, is computed exactly for any
    number of clusters: sums of whole numbers are convolved one by one. Where each prompt is its own
    cluster, this is the exact McNemar test. Without a discordant prompt, or where the prompts of
    every cluster cancel out, it is 1.

    Args:
        first_N: whether something is true of each prompt in the first condition.
        second_N: the same in the second condition.
        clusters_N: the cluster of each prompt.

    Raises:
        InputError: the three differ in length.
    """
    if not len(first_N) == len(second_N) == len(clusters_N):
        raise InputError(
            f"{len(first_N)} and {len(second_N)} paired values in {len(clusters_N)} clusters"
        )
    names_N = np.asarray(clusters_N, dtype=object).astype(str)
    cluster_N = np.unique(names_N, return_inverse=True)[1]
    difference_N = np.asarray(first_N, bool).astype(int) - np.asarray(second_N, bool)
    sum_C = np.rint(np.bincount(cluster_N, difference_N, minlength=1)).astype(int)
    observed, size_C = abs(int(sum_C.sum())), np.abs(sum_C)
    chance_S = _sign_sums(size_C[size_C > 0])
    sums_S = np.arange(len(chance_S)) - len(chance_S) // 2
    return float(min(1.0, chance_S[np.abs(sums_S) >= observed].sum()))


def _sign_sums(size_C: Int[np.ndarray, " C"]) -> Float[np.ndarray, " S"]:
    """The distribution of the sum of numbers with random signs, from minus their sum to plus it."""
    chance_S = np.ones(1)
    for size in size_C:
        pad_S = np.zeros(2 * size)
        chance_S = (np.concatenate([chance_S, pad_S]) + np.concatenate([pad_S, chance_S])) / 2
    return chance_S
