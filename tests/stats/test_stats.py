"""Intervals: against a slow twin, and by how often they cover a known truth."""

import numpy as np

from jaxdepth.stats.intervals import bootstrap_means, interval


def test_equals_a_loop():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 3))
    clusters = ["a", "b", "a", "c", "b", "d"]
    groups = [np.array([1, 1, 0, 1, 0, 1], bool), np.array([0, 0, 1, 0, 1, 0], bool)]
    means = bootstrap_means(values, clusters, groups, resamples=50, seed=3)
    counts = np.random.default_rng(3).multinomial(4, [0.25] * 4, size=50)
    for g, group in enumerate(groups):
        for r in range(50):
            resampled = [
                values[n]
                for n in range(6)
                if group[n]
                for _ in range(counts[r]["abcd".index(clusters[n])])
            ]
            expected = np.mean(resampled, axis=0) if resampled else np.full(3, np.nan)
            assert np.allclose(means[g, r], expected, equal_nan=True)


def covers(clustered: bool, trials: int = 200) -> float:
    """How often the 95% interval of a mean of 40 pairs with shared noise holds the true mean, 0."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(trials):
        shared = np.repeat(rng.standard_normal((40, 1)), 2, axis=0)
        values = shared + 0.1 * rng.standard_normal((80, 1))
        clusters = np.arange(80) // (2 if clustered else 1)
        means = bootstrap_means(values, clusters, [np.ones(80, bool)], resamples=300, seed=trial)
        low, high = interval(means[0])
        hits += bool(low[0] <= 0 <= high[0])
    return hits / trials


def test_clustered_intervals_cover_and_unclustered_ones_do_not():
    assert covers(clustered=True) > 0.89
    assert covers(clustered=False) < 0.88


def test_a_difference_within_pairs_is_sharper_than_its_parts():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(100)
    values = np.concatenate([shared + 0.2, shared])[:, None]
    clusters = np.tile(np.arange(100), 2)
    first = np.arange(200) < 100
    means = bootstrap_means(values, clusters, [first, ~first])
    low, high = interval(means[0] - means[1])
    assert np.allclose([low, high], 0.2)
    low, high = interval(means[0])
    assert high - low > 0.3
