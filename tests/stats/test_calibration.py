"""Calibration: a slow twin, and by simulation what it says of perfect and of bad predictions."""

from functools import cache

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest

from jaxdepth import InputError
from jaxdepth.stats.calibration import BAR, bins_for, equal_mass_bins, measure_calibration
from jaxdepth.stats.intervals import interval

SMALL, LARGE = 60, 300
TRIALS = 200


def in_paired_design(rng, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Perfect predictions for pairs with one event each, as a harmful and a harmless prompt."""
    p_M = rng.random(20 * count)
    true_M = rng.random(len(p_M)) < p_M
    p_P2 = np.stack([p_M[true_M][: count // 2], p_M[~true_M][: count // 2]], axis=1)
    return p_P2.ravel(), np.tile([True, False], count // 2)


def true_error(p_N, truth_N) -> float:
    """The root mean square over bins of what is true minus what is predicted."""
    bin_N = equal_mass_bins(p_N, bins_for(len(p_N)))
    gap_B = np.bincount(bin_N, truth_N - p_N) / np.bincount(bin_N)
    return float(np.sqrt(np.mean(gap_B[bin_N] ** 2)))


@cache
def perfect(count: int = SMALL):
    """Calibrations of perfect predictions for pairs, and the old estimate of the first 60."""
    rng = np.random.default_rng(0)
    samples = [in_paired_design(rng, count) for _ in range(TRIALS)]
    pairs_N = np.repeat(np.arange(count // 2), 2)
    measured = [measure_calibration(p, true, pairs_N) for p, true in samples]
    return samples, measured


def ece_in_equal_widths(p_N, true_N, weights_RN, bins: int = 10):
    """The plug-in estimate that was used before: mean absolute gap over bins of equal width."""
    bin_N = np.minimum((p_N * bins).astype(int), bins - 1)
    total_R = sum(np.abs((weights_RN * (bin_N == b)) @ (p_N - true_N)) for b in range(bins))
    return total_R / weights_RN.sum(axis=1)


def may_be(count: int, rate: float, alternative: str) -> bool:
    """Whether `count` of TRIALS does not speak against a rate, at 1%."""
    return binomtest(count, TRIALS, rate, alternative=alternative).pvalue > 0.01


def test_perfect_predictions_have_an_error_of_0_in_the_interval():
    _, measured = perfect()
    reach = sum(m.error.low == 0 for m in measured)
    assert may_be(reach, 0.95, "less")
    assert np.mean([m.error.value for m in measured]) < 0.06
    assert all(m.error.low <= m.error.value <= m.error.high for m in measured)
    assert all(m.error.high - m.error.low > 0.02 for m in measured)


def test_the_plug_in_estimate_and_its_bootstrap_fail_the_same_simulation():
    samples, _ = perfect()
    rng = np.random.default_rng(1)
    values, reach = [], 0
    for p_N, true_N in samples:
        counts_RP = rng.multinomial(SMALL // 2, [2 / SMALL] * (SMALL // 2), 100)
        resampled_R = ece_in_equal_widths(p_N, true_N, np.repeat(counts_RP, 2, axis=1))
        values.append(ece_in_equal_widths(p_N, true_N, np.ones((1, SMALL)))[0])
        reach += interval(resampled_R[:, None])[0][0] <= 0.01
    assert np.mean(values) > 0.1
    assert not may_be(reach, 0.95, "less")
    assert reach == 0


def test_the_test_of_perfect_calibration_keeps_its_level():
    _, measured = perfect()
    assert may_be(sum(m.p <= 0.05 for m in measured), 0.05, "greater")
    assert np.std([m.p for m in measured]) > 0.15


WRONG = {
    "shifted": lambda p_N: expit(logit(p_N) + 1),
    "overconfident": lambda p_N: expit(0.4 * logit(p_N)),
    "flat": lambda p_N: np.full(len(p_N), 0.5),
}


@pytest.mark.parametrize("count", [SMALL, LARGE])
@pytest.mark.parametrize("kind", WRONG)
def test_intervals_cover_the_error_of_bad_predictions(kind, count):
    rng = np.random.default_rng(2)
    covered, squares, truths = 0, [], []
    for _ in range(TRIALS):
        p_N = rng.random(count)
        truth_N = WRONG[kind](p_N)
        error = measure_calibration(p_N, rng.random(count) < truth_N).error
        expected = true_error(p_N, truth_N)
        covered += error.low <= expected <= error.high
        squares.append(error.value**2)
        truths.append(expected**2)
    assert may_be(covered, 0.95, "less")
    assert np.mean(squares) == pytest.approx(np.mean(truths), rel=0.1)  # the square is unbiased


def test_bad_predictions_are_found_out():
    rng = np.random.default_rng(3)
    p_N = rng.random(LARGE)
    measured = measure_calibration(p_N, rng.random(LARGE) < WRONG["overconfident"](p_N))
    assert measured.p < 0.01
    assert measured.error.low > BAR


def slow_value(p_N, true_N) -> float:
    """The debiased error by loops, of predictions that are all their own cluster."""
    order = sorted(range(len(p_N)), key=lambda n: p_N[n])
    bins = np.array_split(order, bins_for(len(p_N)))
    total = 0.0
    for members in bins:
        residuals = [float(true_N[n]) - p_N[n] for n in members]
        noise = np.var(residuals, ddof=1) / len(members)
        total += len(members) / len(p_N) * (np.mean(residuals) ** 2 - noise)
    return float(np.sqrt(max(0.0, total)))


def test_equals_a_loop():
    rng = np.random.default_rng(4)
    for count in (30, 60, 150, 400):
        p_N = rng.random(count)
        true_N = rng.random(count) < p_N**3
        value = measure_calibration(p_N, true_N).error.value
        assert value == pytest.approx(slow_value(p_N, true_N))


def test_equal_predictions_are_never_split_by_the_order_of_prompts():
    """Sorted by label, split ties would be bins of one label each, and far from calibrated."""
    half_N = np.full(100, 0.5)
    measured = measure_calibration(half_N, np.arange(100) < 50)
    assert measured.error.value == 0
    assert measured.p == 1
    assert 0.05 < measured.error.high < 0.3


def test_the_order_of_prompts_does_not_matter():
    rng = np.random.default_rng(5)
    p_N = rng.choice([0.1, 0.2, 0.5, 0.9], 200)
    true_N = rng.random(200) < p_N
    first, *others = (
        measure_calibration(p_N[order_N], true_N[order_N], order_N // 2)
        for order_N in (np.arange(200), rng.permutation(200), np.arange(200)[::-1])
    )
    for other in others:
        assert other.error.value == pytest.approx(first.error.value)
        assert other.error.high == pytest.approx(first.error.high)


def test_the_n_for_the_bar_is_where_the_bar_can_be_shown():
    rng = np.random.default_rng(6)
    needed = measure_calibration(*in_paired_design(rng, SMALL)).n_for_bar
    assert 500 < needed < 1500
    for share, shown in ((0.5, False), (1.5, True)):
        count = 2 * round(share * needed / 2)
        highs = [measure_calibration(*in_paired_design(rng, count)).error.high for _ in range(20)]
        assert (np.median(highs) <= BAR) == shown


def test_without_any_error_the_bound_is_the_rule_of_three():
    sure = measure_calibration(np.ones(60), np.ones(60, bool))
    assert sure.error.high == pytest.approx(0.05, abs=0.001)
    assert sure.n_for_bar == 60


def test_copies_of_a_prediction_are_one():
    rng = np.random.default_rng(7)
    wide, narrow = [], 0
    for _ in range(100):
        p_C = rng.random(40)
        p_N, true_N = (np.repeat(x_C, 5) for x_C in (p_C, rng.random(40) < p_C))
        wide.append(measure_calibration(p_N, true_N, np.arange(200) // 5).error)
        narrow += measure_calibration(p_N, true_N).error.low > 0
    assert binomtest(sum(e.low > 0 for e in wide), 100, 0.05, alternative="greater").pvalue > 0.01
    assert binomtest(narrow, 100, 0.05, alternative="greater").pvalue < 0.01


def test_of_few_clusters_nothing_is_said():
    p_N = np.linspace(0.1, 0.9, 40)
    few = measure_calibration(p_N, p_N > 0.5, np.arange(40) // 5)
    assert few.error.value > 0
    assert np.isnan([few.error.low, few.error.high, few.p]).all()


@pytest.mark.parametrize(
    ("p", "true", "message"),
    [
        ([], [], "0 probabilities of 0 events"),
        ([0.5], [True, False], "1 probabilities of 2 events"),
        ([0.5, 1.5], [True, False], "not all in 0..1"),
        ([0.5, np.nan], [True, False], "not all in 0..1"),
    ],
)
def test_what_is_no_prediction_is_refused(p, true, message):
    with pytest.raises(InputError, match=message):
        measure_calibration(np.array(p), np.array(true, bool))
