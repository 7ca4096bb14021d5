"""The minimum number of clusters: what a percentile bootstrap covers below it and above it."""

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdepth.stats.sufficiency import MIN_CLUSTERS, enough


def coverage(clusters: int, trials: int = 1500, resamples: int = 400) -> float:
    """How often a nominal 95% percentile interval of a mean of normal clusters holds the truth."""
    rng = np.random.default_rng(clusters)
    value_TC = rng.standard_normal((trials, clusters))
    share_RC = rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples) / clusters
    low_T, high_T = np.percentile(value_TC @ share_RC.T, [2.5, 97.5], axis=1)
    return float(np.mean((low_T <= 0) & (high_T >= 0)))


@pytest.mark.parametrize(
    ("clusters", "stated"), [(2, 0.51), (5, 0.83), (MIN_CLUSTERS, 0.90), (20, 0.92)]
)
def test_coverage_is_what_the_module_states(clusters, stated):
    assert coverage(clusters) == pytest.approx(stated, abs=0.025)


def test_the_minimum_is_where_coverage_reaches_nine_tenths():
    trials = 1500
    at_minimum = binomtest(round(trials * coverage(MIN_CLUSTERS)), trials, 0.9)
    assert at_minimum.pvalue > 0.01
    below = binomtest(round(trials * coverage(6)), trials, 0.9, alternative="less")
    assert below.pvalue < 0.01


def test_one_cluster_has_an_interval_without_width():
    assert coverage(1) == 0
    assert not enough(1)


def test_from_the_minimum_on_it_is_enough():
    assert [n for n in range(20) if enough(n)] == list(range(MIN_CLUSTERS, 20))


def test_a_sign_test_of_five_clusters_cannot_be_significant():
    assert binomtest(5, 5).pvalue > 0.05 > binomtest(6, 6).pvalue
