"""Bounds of resamples: percentiles where something varies, the rule of three where nothing does."""

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdepth.stats.intervals import interval, resample_counts, wilson
from jaxdepth.stats.ranking import auroc
from jaxdepth.stats.resampled import DIFFERENCE, UNIT, clusters_of, rate_bounds, resampled_bounds
from jaxdepth.stats.sufficiency import MIN_CLUSTERS


def test_where_something_varies_bounds_are_percentiles():
    resampled_RX = np.random.default_rng(0).standard_normal((200, 3))
    bounds = resampled_bounds(np.zeros(3), resampled_RX, 40, UNIT)
    np.testing.assert_array_equal(bounds, interval(resampled_RX, clusters=40))


def test_one_pair_has_no_interval():
    """The bootstrap of one pair has no width, and printed +0.94 [+0.94, +0.94]."""
    resampled_RX = np.full((200, 1), 0.94)
    low_X, high_X = interval(resampled_RX)
    assert low_X == high_X == 0.94
    for clusters in (1, MIN_CLUSTERS - 1):
        assert np.isnan(resampled_bounds(np.full(1, 0.94), resampled_RX, clusters)).all()


def test_rates_of_few_prompts_have_no_interval():
    assert np.isnan(rate_bounds(1, MIN_CLUSTERS - 1)).all()
    assert rate_bounds(1, MIN_CLUSTERS) == wilson(1, MIN_CLUSTERS)


def test_what_has_no_variation_is_bounded_by_the_rule_of_three():
    value_X = np.array([0.0, 1.0, 0.5])
    low_X, high_X = resampled_bounds(value_X, np.tile(value_X, (50, 1)), 60, UNIT)
    np.testing.assert_allclose(low_X, [0, 0.95, 0.475], atol=1e-3)
    np.testing.assert_allclose(high_X, [0.05, 1, 0.525], atol=1e-3)
    low_X, high_X = resampled_bounds(np.zeros(1), np.zeros((50, 1)), 60, DIFFERENCE)
    np.testing.assert_allclose([low_X[0], high_X[0]], [-0.05, 0.05], atol=1e-3)
    assert np.isnan(resampled_bounds(value_X, np.tile(value_X, (50, 1)), 60)).all()


@pytest.mark.parametrize(("rate", "clusters"), [(0.02, 20), (0.05, 20), (0.01, 100)])
def test_rare_events_are_covered_and_percentiles_alone_do_not_cover_them(rate, clusters):
    """In samples without an event the percentiles are [0, 0]."""
    rng = np.random.default_rng(0)
    value_NT = (rng.random((clusters, 600)) < rate).astype(float)
    mean_T, resampled_RT = value_NT.mean(axis=0), resample_counts(range(clusters)) @ value_NT
    resampled_RT /= clusters
    plain = np.sum(interval(resampled_RT)[1] >= rate)
    low_T, high_T = resampled_bounds(mean_T, resampled_RT, clusters, UNIT)
    covered = np.sum((low_T <= rate) & (rate <= high_T))
    assert binomtest(covered, 600, 0.95, alternative="less").pvalue > 0.01
    assert binomtest(plain, 600, 0.95, alternative="less").pvalue < 0.01


def test_a_perfect_auroc_is_bounded_too():
    """Below it lies what one unseen pair in 3/C would do, which compares with everything."""
    positive_N = np.arange(60) < 30
    pairs_N = np.tile(np.arange(30), 2)
    score_1N = positive_N.astype(float)[None]
    resampled_RX = auroc(score_1N, positive_N, None, resample_counts(pairs_N, 100))
    low_X, high_X = resampled_bounds(np.ones(1), resampled_RX, 30, UNIT, order=2)
    share = -np.log(0.05) / 30
    assert low_X[0] == pytest.approx(1 - 2 * share)
    assert low_X[0] < (1 - share) ** 2 < high_X[0] == 1


def test_clusters_are_counted_from_their_resamples():
    rng = np.random.default_rng(0)
    for clusters, resamples in ((1, 20), (9, 20), (10, 50), (300, 1000)):
        of_N = np.r_[np.arange(clusters), rng.integers(clusters, size=200)]
        counts_RN = resample_counts(of_N, resamples)
        assert clusters_of(counts_RN) == clusters
        assert clusters_of(counts_RN[:, of_N < clusters / 2]) == len(set(of_N[of_N < clusters / 2]))
