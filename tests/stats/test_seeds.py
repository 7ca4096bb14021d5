"""Intervals over training seeds: coverage by simulation, and the prompts that a gain needs."""

import numpy as np
import pytest
from scipy.stats import t as student

from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.seeds import explained_by_prompts, spread_by_prompts, widen_for_seeds
from jaxdepth.stats.sufficiency import prompts_to_show


@pytest.mark.parametrize(
    ("of_prompts", "of_seeds"), [(1.0, 0.0), (1.0, 0.5), (1.0, 2.0), (0.05, 1.0)]
)
def test_differences_of_arms_with_three_seeds_cover(of_prompts, of_seeds):
    """4,000 studies of 60 pairs and two arms: 95% intervals cover the truth in about 95%."""
    X, clusters, S = 4000, 60, 3
    rng = np.random.default_rng(0)
    # Seeds differ by themselves, and each errs on prompts of its own.
    own_2SX = rng.normal(0, of_prompts, (2, S, X))
    seeds_2SX = own_2SX + rng.normal(0, of_seeds, (2, S, X))
    value_X = seeds_2SX[0].mean(axis=0) - seeds_2SX[1].mean(axis=0)
    half_X = np.full(X, student.ppf(0.975, clusters - 1) * of_prompts * (2 / S) ** 0.5)
    explained = [np.full(X, of_prompts**2)] * 2
    bounds = value_X - half_X, value_X + half_X
    low_X, high_X = widen_for_seeds(value_X, *bounds, clusters, seeds_2SX, explained)
    assert 0.925 < np.mean((low_X <= 0) & (high_X >= 0)) < 0.985
    if of_seeds >= 1:  # resampling prompts alone would not do
        assert np.mean(np.abs(value_X) <= half_X) < 0.8
    low_X, high_X = widen_for_seeds(value_X, *bounds, clusters, seeds_2SX)
    assert np.mean((low_X <= 0) & (high_X >= 0)) > 0.95  # wider, if what prompts explain is unknown


def test_one_seed_leaves_bounds_as_they_are():
    value, low, high = np.array([0.5]), np.array([0.4]), np.array([0.7])
    assert widen_for_seeds(value, low, high, 30, [value[None], value[None]]) == (low, high)
    alike = [np.array([[0.5], [0.5]])]  # seeds that agree add nothing
    assert widen_for_seeds(value, low, high, 30, alike) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(widen_for_seeds(value, low * np.nan, high, 30, [np.array([[0.1], [0.0]])])[0])


def test_what_prompts_explain_of_the_spread_of_seeds():
    """Shares of 400 prompts that three equal seeds get right by chance, in resamples."""
    rng = np.random.default_rng(0)
    right_NSX = rng.random((400, 3, 200)) < 0.7
    counts_RN = rng.multinomial(400, np.full(400, 1 / 400), size=300).astype(float)
    resampled_RSX = np.einsum("rn,nsx->rsx", counts_RN, right_NSX, optimize=True) / 400
    explained_X = explained_by_prompts(resampled_RSX)
    assert explained_X.mean() == pytest.approx(0.7 * 0.3 / 400, rel=0.05)
    seen_X = right_NSX.mean(axis=0).var(axis=0, ddof=1)
    assert explained_X.mean() == pytest.approx(seen_X.mean(), rel=0.2)
    # What all seeds share is no spread between them.
    assert explained_by_prompts(resampled_RSX[:, :1].repeat(3, axis=1)) == pytest.approx(0)


def test_the_spread_by_prompts_equals_that_of_resamples():
    rng = np.random.default_rng(0)
    share_SN, clusters_N = rng.random((3, 300)) < 0.4, rng.integers(0, 90, 300)
    share_SN[:, 100:] = share_SN[:1, 100:]  # prompts on which all seeds agree
    counts_RN = resample_counts(clusters_N, resamples=20_000)
    resampled_RS = counts_RN @ share_SN.T / counts_RN.sum(axis=1, keepdims=True)
    expected = explained_by_prompts(resampled_RS[..., None])[0]
    assert spread_by_prompts(share_SN.astype(float), clusters_N) == pytest.approx(
        expected, rel=0.04
    )


def test_prompts_that_a_gain_needs():
    # Two verdicts that differ on 22% of prompts: the variance of their difference is 0.22 / n.
    assert prompts_to_show(0.05, (0.22 / 400) ** 0.5, 400) == pytest.approx(691, abs=1)
    assert prompts_to_show(0.05, (0.22 / 100) ** 0.5, 100) == pytest.approx(691, abs=1)
    assert prompts_to_show(0.05, 0.0, 100) is None
    assert prompts_to_show(0.05, float("nan"), 100) is None
    # By simulation: with so many prompts four of five studies find it.
    rng = np.random.default_rng(0)
    gain_RN = rng.choice([1, 0, -1], p=[0.135, 0.78, 0.085], size=(3000, 691))
    z_R = gain_RN.mean(axis=1) / (gain_RN.std(axis=1) / 691**0.5)
    assert np.mean(z_R > 1.96) == pytest.approx(0.8, abs=0.03)
