"""Cohen's kappa: against statsmodels, and an interval that covers and has a width."""

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa as reference

from jaxdepth.stats.agreement import cohens_kappa

NAMES = np.array(["refuse", "comply", "degenerate"])


def two_raters(rng, count: int, errs: float) -> tuple[list[str], list[str]]:
    """Labels by two raters; each errs on that share, with any label."""
    truth_N = rng.choice(3, p=[0.5, 0.3, 0.2], size=count)
    pair = []
    for _ in range(2):
        guess_N = rng.choice(3, p=[0.5, 0.3, 0.2], size=count)
        pair.append(NAMES[np.where(rng.random(count) < errs, guess_N, truth_N)].tolist())
    return pair[0], pair[1]


def test_the_value_is_that_of_statsmodels_and_the_interval_is_near():
    first, second = two_raters(np.random.default_rng(0), 200, 0.2)
    table = np.zeros((3, 3))
    names = sorted(NAMES)
    for a, b in zip(first, second, strict=True):
        table[names.index(a), names.index(b)] += 1
    kappa, expected = cohens_kappa(first, second, range(200)), reference(table)
    assert kappa.value == pytest.approx(expected.kappa, abs=1e-12)
    assert kappa.low == pytest.approx(expected.kappa_low, abs=0.03)
    assert kappa.high == pytest.approx(expected.kappa_upp, abs=0.03)
    assert kappa.n == 200


def test_the_interval_covers():
    true = 0.8**2  # chance agreement of the errors is that of the labels
    hits = 0
    for trial in range(200):
        first, second = two_raters(np.random.default_rng(trial), 80, 0.2)
        kappa = cohens_kappa(first, second, range(80), resamples=500)
        hits += kappa.low <= true <= kappa.high
    assert 180 <= hits <= 198


def test_raters_who_always_agree_have_an_interval_with_a_width():
    labels = ["refuse"] * 15 + ["comply"] * 15
    kappa = cohens_kappa(labels, labels, range(30))
    assert kappa.value == kappa.high == 1
    assert 0.6 < kappa.low < 0.95


def test_one_label_alone_says_nothing():
    assert np.isnan(cohens_kappa(["refuse"] * 9, ["refuse"] * 9, range(9)).value)


def test_clusters_make_the_interval_wider():
    first, second = two_raters(np.random.default_rng(1), 40, 0.2)
    alone = cohens_kappa(first * 4, second * 4, range(160))
    together = cohens_kappa(first * 4, second * 4, np.arange(160) % 40)
    assert together.value == alone.value
    assert together.high - together.low > 1.6 * (alone.high - alone.low)
