"""The cluster McNemar test: slow twins, and how often it rejects a true null hypothesis."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from jaxdepth import InputError
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar


def by_enumeration(first_N, second_N, clusters_N) -> float:
    """The same p-value from all 2^C signs."""
    differences = {}
    for a, b, cluster in zip(first_N, second_N, clusters_N, strict=True):
        differences[cluster] = differences.get(cluster, 0) + int(a) - int(b)
    observed = abs(sum(differences.values()))
    sums = [
        sum(sign * d for sign, d in zip(signs, differences.values(), strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([abs(s) >= observed for s in sums]))


def test_equals_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(40):
        count = rng.integers(1, 25)
        first_N, second_N = rng.random((2, count)) < rng.random((2, 1))
        clusters = [f"c{n}" for n in rng.integers(rng.integers(1, 10), size=count)]
        expected = by_enumeration(first_N, second_N, clusters)
        assert cluster_mcnemar(first_N, second_N, clusters) == pytest.approx(expected)


def test_with_clusters_of_one_it_is_the_exact_mcnemar_test():
    rng = np.random.default_rng(1)
    for _ in range(40):
        first_N, second_N = rng.random((2, 60)) < rng.random((2, 1))
        only = int((first_N & ~second_N).sum()), int((~first_N & second_N).sum())
        expected = binomtest(only[0], sum(only)).pvalue
        assert cluster_mcnemar(first_N, second_N, range(60)) == pytest.approx(expected)


def test_nothing_that_differs_is_no_evidence():
    assert cluster_mcnemar(np.ones(4, bool), np.ones(4, bool), [1, 1, 2, 2]) == 1
    assert cluster_mcnemar(np.array([1, 0], bool), np.array([0, 1], bool), ["a", "a"]) == 1
    assert cluster_mcnemar(np.zeros(0, bool), np.zeros(0, bool), []) == 1


def test_lengths_must_agree():
    with pytest.raises(InputError, match="2 and 2 paired values in 3 clusters"):
        cluster_mcnemar(np.ones(2, bool), np.ones(2, bool), [1, 2, 3])


def rejections(correlation: float, trials: int = 1500, pairs: int = 30) -> tuple[int, int]:
    """Rejections at 5% of a true null hypothesis, clustered and by prompts.

    Both conditions are right with the same chance; the two prompts of a pair share their luck.
    """
    rng = np.random.default_rng(0)
    shared_T2P1 = rng.standard_normal((trials, 2, pairs, 1))
    own_T2P2 = rng.standard_normal((trials, 2, pairs, 2))
    luck_T2P2 = np.sqrt(correlation) * shared_T2P1 + np.sqrt(1 - correlation) * own_T2P2
    first_TN, second_TN = (luck_T2P2 < norm.ppf(0.4)).reshape(trials, 2, 2 * pairs).swapaxes(0, 1)
    clusters_N = np.repeat(np.arange(pairs), 2)
    clustered = sum(
        cluster_mcnemar(a, b, clusters_N) <= 0.05 for a, b in zip(first_TN, second_TN, strict=True)
    )
    only_first_T, only_second_T = (first_TN & ~second_TN).sum(1), (~first_TN & second_TN).sum(1)
    plain = sum(
        binomtest(int(a), int(a + b)).pvalue <= 0.05
        for a, b in zip(only_first_T, only_second_T, strict=True)
        if a + b
    )
    return clustered, plain


@pytest.mark.parametrize("correlation", [0.6, 0.9])
def test_it_keeps_its_level_where_pairs_are_correlated_and_the_plain_test_does_not(correlation):
    trials = 1500
    clustered, plain = rejections(correlation, trials)
    assert binomtest(clustered, trials, 0.05, alternative="greater").pvalue > 0.01
    assert binomtest(plain, trials, 0.05, alternative="greater").pvalue < 0.01
    assert clustered > 0.02 * trials  # a test that never rejects has no power
