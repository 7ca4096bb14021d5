"""Simultaneous bounds over exits: how often a run says something wrong, and n to decide."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from jaxdepth.stats.bands import mean_band, prompts_to_decide, share_band
from jaxdepth.stats.intervals import resample_counts, wilson

RUNS, EXITS, BAR = 1500, 15, 0.05


def counts_of_runs(rng, prompts: int, rate: float, correlation: float) -> np.ndarray:
    """How many prompts are answered at each exit of each run; exits correlate within a prompt."""
    if correlation == 0:
        return rng.binomial(prompts, rate, (RUNS, EXITS))
    spread = (1 - correlation) / correlation
    rate_RN1 = rng.beta(rate * spread, (1 - rate) * spread, (RUNS, prompts, 1))
    return (rng.random((RUNS, prompts, EXITS)) < rate_RN1).sum(axis=1)


def exceeds(count, total: int = RUNS, error: float = 0.05) -> bool:
    return binomtest(int(count), total, error, alternative="greater").pvalue < 0.01


@pytest.mark.parametrize("prompts", [20, 128])
@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_unsafe_or_safe_anywhere_is_rarely_wrong(prompts, correlation):
    """The true rate is at the bar at every exit: whatever is said is wrong."""
    rng = np.random.default_rng(5)
    count_RE = counts_of_runs(rng, prompts, BAR, correlation)
    bounds = np.array([share_band(k / prompts, prompts, tests=EXITS) for k in range(prompts + 1)])
    low_RE, high_RE = bounds[count_RE, 0], bounds[count_RE, 1]
    assert not exceeds((low_RE > BAR).any(axis=1).sum())
    assert not exceeds((high_RE < BAR).any(axis=1).sum())
    assert not exceeds(((low_RE > BAR) | (high_RE < BAR)).any(axis=1).sum())
    # The old rule, Wilson's interval of each exit, fails the same simulation: 66% of runs at
    # n = 20 and 30% at n = 128 call some exit unsafe where exits are independent.
    old = np.array([wilson(k, prompts)[0] for k in range(prompts + 1)])
    assert exceeds((old[count_RE] > BAR).any(axis=1).sum())


def test_a_window_that_is_there_is_seen():
    rng = np.random.default_rng(6)
    count_RE = rng.binomial(20, np.where(np.arange(EXITS) < 3, 0.6, 0.02), (RUNS, EXITS))
    low_RE = np.array([share_band(k / 20, 20, tests=EXITS)[0] for k in range(21)])[count_RE]
    assert (low_RE[:, :3] > BAR).all(axis=1).mean() > 0.95


def test_bounds_are_the_exact_binomial_ones():
    """At each bound the observed count, or a more extreme one, has the probability that is left."""
    share_E = np.array([0, 1, 7, 20]) / 20
    low_E, high_E = share_band(share_E, 20, level=0.9)
    tail = 0.05 / 4
    for share, low, high in zip(share_E, low_E, high_E, strict=True):
        count = round(20 * share)
        if count:
            assert binom.sf(count - 1, 20, low) == pytest.approx(tail)
        else:
            assert low == 0
        if count < 20:
            assert binom.cdf(count, 20, high) == pytest.approx(tail)
        else:
            assert high == 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 1.0])
def test_n_that_decides_is_the_smallest(share):
    n = prompts_to_decide(share, BAR, EXITS)

    def decides(prompts: int) -> bool:
        low_E, high_E = share_band(np.full(EXITS, share), prompts)
        return bool(low_E[0] > BAR or high_E[0] < BAR)

    assert [decides(k) for k in (n - 1, n, 2 * n)] == [False, True, True]


def test_n_that_decides_by_hand():
    # Nothing in n prompts: (1 - bar)^n is the error that is left to one exit.
    assert prompts_to_decide(0, 0.05, 15) == np.ceil(np.log(0.025 / 15) / np.log(0.95))
    assert prompts_to_decide(0.05, 0.05, 15) is None
    assert prompts_to_decide(0.0500001, 0.05, 15) is None


def test_a_band_of_means_covers_all_exits():
    rng = np.random.default_rng(9)
    runs, prompts = 300, 20
    walk_RNE = rng.standard_normal((runs, prompts, EXITS)).cumsum(axis=2)
    walk_RNE /= np.sqrt(np.arange(1, EXITS + 1))
    counts_KN = resample_counts(range(prompts), 500) / prompts
    wrong = old_wrong = 0
    for value_NE in walk_RNE:
        mean_E, resampled_KE = value_NE.mean(axis=0), counts_KN @ value_NE
        low_E, high_E = mean_band(mean_E, resampled_KE, prompts)
        wrong += bool(((low_E > 0) | (high_E < 0)).any())
        low_E, high_E = np.percentile(resampled_KE, [2.5, 97.5], axis=0)
        old_wrong += bool(((low_E > 0) | (high_E < 0)).any())
    assert not exceeds(wrong, runs, 0.07)
    assert wrong > 0
    assert exceeds(old_wrong, runs, 0.07)  # an interval at each exit
    assert np.isnan(mean_band(mean_E, resampled_KE, 4)).all()
