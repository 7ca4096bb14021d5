"""Thresholds for a depth and for a risk: p-values by scipy, guarantees by many resamplings."""

import math

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import binom, binomtest

from jaxdepth import InputError
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.risk_control import risk_p_value, threshold_for_depth, threshold_for_risk

RISK = 0.1
# Three thresholds that are safe by far, then many that are not, though barely.
TRUTH = np.array([0.01, 0.02, 0.03] + [0.1001] * 9)
SEEDS = range(200)


def grid(count: int) -> np.ndarray:
    return np.linspace(0.95, 0.05, count)


def losses(truth_R, seed: int, kind: str, prompts: int = 150) -> np.ndarray:
    """Losses with these true means; half of the prompts have one luck at all thresholds."""
    rng = np.random.default_rng(seed)
    own_NR, shared_N1 = rng.random((prompts, len(truth_R))), rng.random((prompts, 1))
    luck_NR = np.where(rng.random((prompts, 1)) < 0.5, shared_N1, own_NR)
    # The mean of u ** k is 1 / (k + 1).
    return luck_NR < truth_R if kind == "whole" else luck_NR ** (1 / truth_R - 1)


def exceeded(choose, kind: str, **changes) -> int:
    """In how many resamplings a choice of threshold has a true risk above what was allowed."""
    chosen = [choose(grid(len(TRUTH)), losses(TRUTH, seed, kind, **changes)) for seed in SEEDS]
    return sum(index is not None and TRUTH[index] > RISK for index in chosen)


def kept(count: int) -> bool:
    """Whether so many do not speak against an error of 5%, at 1%."""
    return binomtest(count, len(SEEDS), 0.05, alternative="greater").pvalue > 0.01


def certified(thresholds_R, loss_NR):
    return threshold_for_risk(thresholds_R, loss_NR, RISK)


def lowest(thresholds_R, passes_R):
    """The lowest threshold of those that pass, each for itself."""
    return min(np.flatnonzero(passes_R), key=lambda index: thresholds_R[index], default=None)


def by_mean(thresholds_R, loss_NR):
    """Wrong: the empirical mean taken for the true one."""
    return lowest(thresholds_R, loss_NR.mean(axis=0) <= RISK)


def without_a_stop(thresholds_R, loss_NR):
    """Wrong: many tests, each of which may err."""
    return lowest(thresholds_R, [risk_p_value(loss_N, RISK) <= 0.05 for loss_N in loss_NR.T])


@pytest.mark.parametrize("kind", ["whole", "share"])
def test_the_true_risk_exceeds_what_was_asked_for_as_rarely_as_promised(kind):
    count = exceeded(certified, kind)
    assert kept(count)
    assert not kept(exceeded(by_mean, kind))
    if kind == "whole":  # its p-values are exact: a guarantee that never fails has no power
        assert count > 0
        assert not kept(exceeded(without_a_stop, kind))


def test_prompts_that_belong_together_are_one():
    def fours(thresholds_R, loss_NR, clusters_N=None):
        return threshold_for_risk(
            thresholds_R, np.repeat(loss_NR, 4, axis=0), RISK, 0.05, clusters_N
        )

    assert not kept(exceeded(fours, "whole"))
    names = np.repeat(np.arange(150), 4).tolist()
    assert kept(exceeded(lambda *given: fours(*given, names), "share"))
    assert kept(exceeded(lambda *given: fours(*given, names), "whole"))


def test_the_risk_is_the_mean_over_clusters():
    """Of 30 clusters the first is large and bad: over prompts the mean is high, over them low."""
    clusters = [("bad", None)] * 70 + [f"pair {n // 2}" for n in range(58)]
    loss_N1 = np.array([1.0] * 70 + [0.0, 0.5] * 29)[:, None]
    means_N1 = np.array([1.0] + [0.25] * 29)[:, None]
    for risk in (0.3, 0.4, 0.45, 0.5):
        by_hand = 0 if risk_p_value(means_N1[:, 0], risk) <= 0.05 else None
        assert threshold_for_risk([0.5], loss_N1, risk, clusters_N=clusters) == by_hand
    assert threshold_for_risk([0.5], loss_N1, 0.5, clusters_N=clusters) == 0
    assert threshold_for_risk([0.5], loss_N1, 0.5) is None


@pytest.mark.parametrize("kind", ["whole", "share"])
def test_many_prompts_certify_what_is_comfortable(kind):
    truth_R = np.array([0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.09, 0.12, 0.2])
    for seed in range(20):
        loss_NR = losses(truth_R, seed, kind, prompts=400)
        index = certified(grid(10), loss_NR)
        p_values = [risk_p_value(loss_N, RISK) for loss_N in loss_NR.T]
        assert index >= 4
        assert max(p_values[: index + 1]) <= 0.05 < p_values[index + 1]


def test_testing_stops_at_the_first_failure():
    thresholds = [0.2, 0.9, 0.5, 0.7]  # in any order
    for bad, index in (([], 0), ([2], 3), ([2, 3], 1), ([3], 1), ([1], None)):
        loss_NR = np.zeros((50, 4))
        loss_NR[:, bad] = 1
        assert threshold_for_risk(thresholds, loss_NR, RISK) == index


def test_a_p_value_equal_to_the_error_passes():
    none_11 = np.zeros((1, 1), bool)
    error = risk_p_value(none_11[0], 0.5)
    assert error == pytest.approx(0.5)
    assert threshold_for_risk([1.0], none_11, 0.5, error) == 0
    assert threshold_for_risk([1.0], none_11, 0.5, error - 1e-9) is None


def test_p_values_by_hand():
    two_N = np.arange(10) < 2
    assert risk_p_value(two_N, 0.5) == pytest.approx((1 + 10 + 45) / 1024)
    assert risk_p_value(two_N | True, 0.5) == pytest.approx(1)
    # Of no loss at all Hoeffding's bound is the exact chance; of other sums Bentkus costs an e.
    assert risk_p_value(np.zeros(10), 0.2) == pytest.approx(0.8**10)
    few_N = np.repeat([0.5, 0.0], [7, 93])
    tail = sum(math.comb(100, k) * 0.2**k * 0.8 ** (100 - k) for k in range(5))
    assert risk_p_value(few_N, 0.2) == pytest.approx(math.exp(-100 * divergence(0.035, 0.2)))
    assert risk_p_value(np.repeat([1.0, 0.0], [4, 96]), 0.2) == pytest.approx(math.e * tail)
    # Ten times 1 - 0.7 are 3, and a bit in floating point.
    assert risk_p_value(np.repeat([1 - 0.7, 0.0], [10, 20]), 0.3) == pytest.approx(
        min(math.exp(-30 * divergence(0.1, 0.3)), math.e * binom.cdf(3, 30, 0.3))
    )
    assert risk_p_value(np.full(50, 0.9), 0.3) == 1


def divergence(first: float, second: float) -> float:
    return rel_entr(first, second) + rel_entr(1 - first, 1 - second)


def test_p_values_by_scipy():
    rng = np.random.default_rng(0)
    least = set()
    for count in (1, 7, 60, 400, 5000):
        for risk in (0.01, 0.1, 0.5, 0.9):
            for mean in (0.2 * risk, 0.6 * risk, 0.9 * risk, min(1, 1.2 * risk)):
                whole_N = rng.random(count) < mean
                expected = binom.cdf(whole_N.sum(), count, risk)
                assert risk_p_value(whole_N, risk) == pytest.approx(expected, rel=1e-8)
                share_N = rng.random(count) ** (1 / mean - 1)
                bounds = (
                    np.exp(-count * divergence(min(share_N.mean(), risk), risk)),
                    np.e * binom.cdf(np.ceil(share_N.sum()), count, risk),
                )
                assert risk_p_value(share_N, risk) == pytest.approx(min(bounds), rel=1e-8)
                least.add(np.argmin(bounds))
    assert least == {0, 1}


def test_the_kind_of_loss_is_what_the_caller_says():
    """Numbers that all happen to be 0 or 1 are not tested as if they could be nothing else."""
    few_N = np.arange(100) < 4
    assert risk_p_value(few_N, 0.2) < risk_p_value(few_N.astype(float), 0.2)
    assert risk_p_value(few_N.astype(int), 0.2) == risk_p_value(few_N.astype(float), 0.2)


# For a depth


def test_the_threshold_for_a_depth():
    rng = np.random.default_rng(0)
    thresholds_R = np.array([0.5, 0.9, 0.1, 0.7])
    depth_NR = np.array([5.0, 9.0, 1.0, 7.0]) + rng.standard_normal((40, 4))
    uneven = np.minimum(np.arange(40) // 2, 15)  # resamples differ in how many prompts they have
    counts_KN = resample_counts(uneven, resamples=300)
    for expected, index in ((5.2, 0), (6.7, 3), (100, 1), (-1, 2)):
        result = threshold_for_depth(thresholds_R, depth_NR, expected, counts_KN)
        assert result[:2] == (index, thresholds_R[index])
        assert result.depth == pytest.approx(depth_NR[:, index].mean())
        drawn_K = [
            np.repeat(depth_NR[:, index], counts_N.astype(int)).mean() for counts_N in counts_KN
        ]
        assert result[3:] == pytest.approx(np.percentile(drawn_K, [2.5, 97.5]))
        assert result.low < result.depth < result.high


def test_of_equally_near_depths_the_most_careful_threshold():
    counts_KN = np.ones((1, 3))
    for depths in ([2.1, 2.3], [2.3, 2.1], [2.2, 2.2]):
        depth_NR = np.tile(depths, (3, 1))
        for thresholds in ([0.1, 0.2], [0.2, 0.1]):
            result = threshold_for_depth(thresholds, depth_NR, 2.2, counts_KN)
            assert result.threshold == 0.2
            assert result.low == pytest.approx(result.depth) == result.high
    assert threshold_for_depth([0.1, 0.2], np.tile([2.1, 2.31], (3, 1)), 2.2, counts_KN).index == 0


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_NR": np.full((4, 2), 1.01)}, "not all in 0..1"),
        ({"loss_NR": np.full((4, 2), -0.01)}, "not all in 0..1"),
        ({"loss_NR": np.array([[0, np.nan]])}, "not all in 0..1"),
        ({"loss_NR": np.zeros((0, 2))}, "no prompts"),
        ({"loss_NR": np.zeros((4, 0)), "thresholds_R": []}, "no prompts or no thresholds"),
        ({"loss_NR": np.zeros(2)}, r"losses of shape \(2,\) at thresholds of shape \(2,\)"),
        ({"loss_NR": np.zeros((4, 3))}, r"expected \(N, R\) and \(R,\)"),
        ({"thresholds_R": [[0.1, 0.2]]}, r"expected \(N, R\) and \(R,\)"),
        ({"thresholds_R": [0.3, 0.3]}, r"thresholds \[0.3, 0.3\] are not all different"),
        ({"thresholds_R": [0.3, np.nan]}, "not all different numbers"),
        ({"risk": 0.0}, "risk is 0.0, expected more than 0"),
        ({"risk": 1.0}, "risk is 1.0"),
        ({"risk": np.nan}, "risk is nan"),
        ({"error": 0}, "error is 0, expected more than 0 and less than 1"),
        ({"error": 1}, "error is 1"),
        ({"clusters_N": [1, 2, 3]}, "3 clusters for 4 prompts"),
    ],
)
def test_bad_losses_are_one_line_errors(change, message):
    right = {"thresholds_R": [0.9, 0.3], "loss_NR": np.zeros((4, 2)), "risk": 0.1}
    with pytest.raises(InputError, match=message) as raised:
        threshold_for_risk(**right | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_NR": np.zeros((0, 2)), "counts_KN": np.ones((3, 0))}, "no prompts"),
        ({"depth_NR": np.zeros((4, 3))}, r"depths of shape \(4, 3\) at thresholds"),
        ({"thresholds_R": [0.3, 0.3]}, "not all different"),
        ({"depth_NR": np.full((4, 2), np.nan)}, "not finite"),
        ({"target": np.nan}, "not finite"),
        ({"counts_KN": np.ones((3, 5))}, r"resamples of shape \(3, 5\), expected \(K, 4\)"),
        ({"counts_KN": np.ones(4)}, r"resamples of shape \(4,\)"),
        ({"counts_KN": np.ones((0, 4))}, r"resamples of shape \(0, 4\)"),
    ],
)
def test_bad_depths_are_one_line_errors(change, message):
    right = {"thresholds_R": [0.9, 0.3], "depth_NR": np.ones((4, 2)), "target": 1.0}
    with pytest.raises(InputError, match=message) as raised:
        threshold_for_depth(**right | {"counts_KN": np.ones((3, 4))} | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bad", [np.zeros(0), np.array([2.0]), np.array([np.nan])])
def test_a_p_value_needs_losses(bad):
    with pytest.raises(InputError, match="missing or not all in"):
        risk_p_value(bad, 0.1)
