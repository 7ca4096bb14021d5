"""Onsets: a slow twin, and how often their intervals hold the truth of ramps and steps."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdepth.stats.change_point import change_point, lag

LAYERS, TRIALS, RESAMPLES = 20, 60, 120


def ramp(start: int, end: int, layers: int = LAYERS) -> np.ndarray:
    """A lower level up to the layer `start`, an upper one from `end` on."""
    return 0.5 + 0.3 * np.clip((np.arange(layers) - start) / (end - start), 0, 1)


def errors(rng, rows: int, size: float, correlation: float) -> np.ndarray:
    """Errors of curves, correlated between neighbouring layers, and one that all layers share."""
    own = rng.standard_normal((rows, LAYERS))
    for x in range(1, LAYERS):
        own[:, x] = correlation * own[:, x - 1] + np.sqrt(1 - correlation**2) * own[:, x]
    return size * own + 0.03 * rng.standard_normal((rows, 1))


@cache
def points(start: int, end: int, size: float = 0.03, correlation: float = 0.5) -> list:
    """Change points of a truth seen with errors, in many repetitions."""
    rng, found = np.random.default_rng(start), []
    for _ in range(TRIALS):
        curve_X = ramp(start, end) + errors(rng, 1, size, correlation)[0]
        resampled_RX = curve_X + errors(rng, RESAMPLES, size, correlation)
        found.append(change_point(curve_X, resampled_RX))
    return found


def may_cover(covered: int) -> bool:
    """Whether so many of TRIALS do not speak against a coverage of 95%, at 1%."""
    return binomtest(covered, TRIALS, 0.95, alternative="less").pvalue > 0.01


@pytest.mark.parametrize(("start", "end"), [(9, 10), (8, 11), (5, 14), (3, 17)])
def test_the_interval_holds_the_onset_of_ramps_and_steps(start, end):
    found = points(start, end)
    assert may_cover(sum(p.onset.low <= start + 1 <= p.onset.high for p in found))
    assert np.mean([p.onset.high - p.onset.low for p in found]) < 0.6 * LAYERS


@pytest.mark.parametrize(("start", "end"), [(5, 14), (3, 17)])
def test_the_midpoint_of_a_ramp_is_no_onset(start, end):
    """What was called the layer of a rise fails the same simulation."""
    found = points(start, end)
    assert not may_cover(sum(p.midpoint.low <= start + 1 <= p.midpoint.high for p in found))
    assert np.median([p.midpoint.layer for p in found]) == pytest.approx(
        (start + end + 1) / 2, abs=1
    )


def test_noisy_steps_are_covered_too():
    found = points(9, 10, size=0.1)
    assert may_cover(sum(p.onset.low <= 10 <= p.onset.high for p in found))
    assert np.mean([p.onset.high - p.onset.low for p in found]) > 1


def slow_onset(curve_X) -> int:
    """The first layer above the lower level of the least-squares fit, by a search of all fits."""
    best, onset = np.inf, None
    for start in range(LAYERS - 1):
        for end in range(start + 1, LAYERS):
            design_X2 = np.stack([np.ones(LAYERS), ramp(start, end)], axis=1)
            (_, height), *_ = np.linalg.lstsq(design_X2, curve_X, rcond=None)
            fit_X = design_X2 @ np.linalg.lstsq(design_X2, curve_X, rcond=None)[0]
            error = np.sum((curve_X - fit_X) ** 2)
            if height > 0 and error < best - 1e-12:
                best, onset = error, start + 1
    return onset


def test_the_onset_is_that_of_the_least_squares_fit():
    rng = np.random.default_rng(0)
    for start, end in ((11, 12), (6, 16), (0, 19)):
        curve_X = ramp(start, end) + errors(rng, 1, 0.05, 0.5)[0]
        assert change_point(curve_X, curve_X[None]).onset.layer == slow_onset(curve_X)


def test_the_exact_layers_of_exact_curves():
    for start, end in ((5, 6), (5, 9), (0, 19), (15, 19)):
        curve_X = ramp(start, end)
        point = change_point(curve_X, curve_X[None], first=1)
        assert point.onset[:3] == (start + 2,) * 3  # exits count from 1
        assert abs(point.midpoint.layer - (start + end) / 2 - 1) <= 2


def test_lags_of_onsets_and_of_midpoints_differ_where_ramps_do():
    """A steep rise behind a slow one: they begin six layers apart, half way there is no lag."""
    slow, steep = (change_point(ramp(*ends), ramp(*ends)[None]) for ends in ((3, 17), (9, 11)))
    both = lag(slow, steep)
    assert both.onset == (6, 6, 6)
    assert abs(both.midpoint.layers) <= 1
