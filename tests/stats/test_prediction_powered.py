"""Rates corrected by labels: PPI++ a second way, and how often its intervals cover."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from jaxdepth.stats.prediction_powered import corrected_rate

CLUSTERS, EXITS, LABELS = 64, 7, 150
COMPLY, KINDS = 0, 4  # comply, off-topic, refuse, degenerate
# P(judged kind | true kind): one judge is good, one takes off-topic for comply, one overlooks.
JUDGES = {
    "good": [(90, 5, 3, 2), (5, 85, 5, 5), (2, 3, 90, 5), (2, 3, 5, 90)],
    "lenient": [(95, 0, 3, 2), (60, 30, 5, 5), (5, 0, 70, 25), (15, 5, 0, 80)],
    "strict": [(50, 30, 10, 10), (0, 90, 5, 5), (0, 0, 95, 5), (0, 0, 0, 100)],
}  # in %
RATES = (0.05, 0.2, 0.6)


def intercept(rate: float, spread: float = 1.5) -> float:
    """The logit at which a prompt's chance, with a normal effect of that spread, is `rate`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    logits = np.linspace(-12, 12, 4001)
    means = expit(logits[:, None] + spread * nodes) @ (weights / weights.sum())
    return float(logits[np.argmin(np.abs(means - rate))])


LOGIT = {rate: intercept(rate) for rate in RATES}


def population(rng, rate: float, judge: str) -> tuple[np.ndarray, np.ndarray]:
    """True and judged kinds of all answers; those of one prompt are alike."""
    chance_C1 = expit(LOGIT[rate] + 1.5 * rng.standard_normal((CLUSTERS, 1)))
    usual_C1, other_CE = (
        rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3], size=(CLUSTERS, size)) for size in (1, EXITS)
    )
    rest_CE = np.where(rng.random((CLUSTERS, EXITS)) < 0.6, usual_C1, other_CE)
    truth_CE = np.where(rng.random((CLUSTERS, EXITS)) < chance_C1, COMPLY, rest_CE)
    bounds_CEK = np.cumsum(JUDGES[judge], axis=1)[truth_CE] / 100
    judged_CE = (rng.random((CLUSTERS, EXITS, 1)) > bounds_CEK).sum(axis=-1)
    return truth_CE.ravel(), judged_CE.ravel()


def draw(rng, judged_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sample, the same number of each judged kind if there are so many; with its weights."""
    index, weight = [], []
    for kind in range(KINDS):
        members = np.flatnonzero(judged_X == kind)
        count = min(len(members), LABELS // KINDS)
        index.append(rng.choice(members, count, replace=False))
        weight.append(np.full(count, len(members) / max(count, 1)))
    return np.concatenate(index), np.concatenate(weight)


CLUSTER_X = np.repeat(np.arange(CLUSTERS), EXITS)


def correct(judged_X, truth_X, index_L, weight_L, noise_seed=0, resamples=500):
    return corrected_rate(
        judged_X == COMPLY,
        CLUSTER_X,
        index_L,
        truth_X[index_L] == COMPLY,
        weight_L,
        resamples=resamples,
        noise_seed=noise_seed,
    )


def chances(judged_X, truth_X, index_L, weight_L) -> list[float]:
    """P(comply | judged so), P(comply | judged otherwise), from labels."""
    values = []
    for side in (True, False):
        is_side_L = (judged_X[index_L] == COMPLY) == side
        values.append(
            np.average(truth_X[index_L][is_side_L] == COMPLY, weights=weight_L[is_side_L])
        )
    return values


def test_the_estimate_is_that_of_ppi_with_the_lambda_of_least_variance():
    rng = np.random.default_rng(0)
    truth_X, judged_X = population(rng, 0.2, "lenient")
    index_L, weight_L = draw(rng, judged_X)
    corrected = correct(judged_X, truth_X, index_L, weight_L)
    y_L, f_L = truth_X[index_L] == COMPLY, judged_X[index_L] == COMPLY

    def ppi(power: float) -> tuple[float, float]:
        """The estimate, and the weighted variance of its rectifier."""
        rectifier_L = y_L - power * f_L
        mean = np.average(rectifier_L, weights=weight_L)
        variance = np.average((rectifier_L - mean) ** 2, weights=weight_L)
        return power * (judged_X == COMPLY).mean() + mean, variance

    powers = np.linspace(-1, 2, 3001)
    best = powers[np.argmin([ppi(power)[1] for power in powers])]
    assert corrected.power == pytest.approx(best, abs=1e-3)
    assert corrected.rate.value == pytest.approx(ppi(corrected.power)[0], abs=1e-12)
    assert corrected.rate.n == len(index_L)


def test_a_census_gives_the_true_share():
    truth_X, judged_X = population(np.random.default_rng(1), 0.2, "lenient")
    corrected = correct(judged_X, truth_X, np.arange(len(truth_X)), np.ones(len(truth_X)))
    assert corrected.rate.value == pytest.approx((truth_X == COMPLY).mean(), abs=1e-12)


def naive_interval(judged_X) -> tuple[float, float]:
    """The share by the judge alone, by the variance between prompts."""
    share_C = (judged_X == COMPLY).reshape(CLUSTERS, EXITS).mean(axis=1)
    half = 1.96 * share_C.std(ddof=1) / np.sqrt(CLUSTERS)
    return share_C.mean() - half, share_C.mean() + half


def transported_interval(judged_X, borrowed) -> tuple[float, float]:
    """The judged share with the errors that labels of another model show."""
    is_true, is_false = borrowed
    return tuple(share * is_true + (1 - share) * is_false for share in naive_interval(judged_X))


def in_bounds(hits: int, trials: int) -> bool:
    """Whether coverage may be .93 to .97, by binomial tests at 1%."""
    return binom.cdf(hits, trials, 0.93) >= 0.01 and binom.sf(hits - 1, trials, 0.97) >= 0.01


def test_intervals_cover_and_those_of_the_judge_and_of_borrowed_errors_do_not():
    trials = 300
    names = list(JUDGES)
    corrected, naive, transported = (dict.fromkeys(RATES, 0) for _ in range(3))
    by_judge = dict.fromkeys(names, 0)
    for rate in RATES:
        for trial in range(trials):
            rng = np.random.default_rng([trial, int(100 * rate)])
            judge, other = names[trial % 3], names[(trial + 1) % 3]
            truth_X, judged_X = population(rng, rate, judge)
            estimate = correct(judged_X, truth_X, *draw(rng, judged_X), noise_seed=trial).rate
            hit = estimate.low <= rate <= estimate.high
            corrected[rate] += hit
            by_judge[judge] += hit
            low, high = naive_interval(judged_X)
            naive[rate] += low <= rate <= high
            true_X, seen_X = population(rng, rate, other)
            borrowed = chances(seen_X, true_X, *draw(rng, seen_X))
            low, high = transported_interval(judged_X, borrowed)
            transported[rate] += low <= rate <= high
    assert all(in_bounds(hits, trials) for hits in corrected.values()), corrected
    assert all(in_bounds(hits, trials) for hits in by_judge.values()), by_judge
    for wrong in (naive, transported):
        assert not any(in_bounds(hits, trials) for hits in wrong.values()), wrong


def test_labels_that_find_no_error_leave_an_interval_with_a_width():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        judged_X = np.where(rng.random(CLUSTERS * EXITS) < share, COMPLY, 1)
        index_L = rng.permutation(len(judged_X))[:20]
        rate = correct(judged_X, judged_X, index_L, np.full(20, len(judged_X) / 20)).rate
        assert rate.low <= rate.value <= rate.high
        assert rate.high - rate.low > 0.05
        assert rate.low >= 0
        assert rate.high <= 1


def test_more_labels_make_a_sharper_interval_and_a_good_judge_too():
    def width(judge: str, labels: int) -> float:
        rng = np.random.default_rng(3)
        truth_X, judged_X = population(rng, 0.2, judge)
        index_L = rng.permutation(len(truth_X))[:labels]
        rate = correct(judged_X, truth_X, index_L, np.full(labels, len(truth_X) / labels)).rate
        return rate.high - rate.low

    assert width("good", 200) < width("good", 50)
    assert width("good", 50) < width("lenient", 50)


def test_without_labels_on_a_side_that_has_answers_there_is_no_estimate():
    judged_X = np.where(np.arange(CLUSTERS * EXITS) % 3 == 0, COMPLY, 1)
    index_L = np.flatnonzero(judged_X == 1)[:30]
    rate = correct(judged_X, judged_X, index_L, np.ones(30)).rate
    assert np.isnan([rate.value, rate.low, rate.high]).all()


def test_few_clusters_have_no_interval():
    predicted_X, every = np.arange(36) % 2 == 0, np.arange(36)
    for clusters, has_interval in ((9, False), (12, True)):
        rate = corrected_rate(predicted_X, every % clusters, every, predicted_X, np.ones(36)).rate
        assert rate.value == 0.5
        assert np.isfinite([rate.low, rate.high]).all() == has_interval


def test_clusters_make_intervals_wider():
    rng = np.random.default_rng(0)
    truth_X, judged_X = population(rng, 0.2, "good")
    index_L, weight_L = draw(rng, judged_X)
    rate = correct(judged_X, truth_X, index_L, weight_L).rate
    alone = corrected_rate(
        judged_X == COMPLY,
        np.arange(len(judged_X)),
        index_L,
        truth_X[index_L] == COMPLY,
        weight_L,
    ).rate
    assert alone.value == rate.value
    assert alone.high - alone.low < 0.8 * (rate.high - rate.low)


def test_models_on_the_same_prompts_are_paired_by_their_resamples():
    rng = np.random.default_rng(0)
    truth_X, judged_X = population(rng, 0.2, "good")
    every = np.arange(len(truth_X)), np.ones(len(truth_X))
    one, two = (correct(judged_X, truth_X, *every, noise_seed=seed).resampled_R for seed in (1, 2))
    assert np.std(one - two) < 0.4 * np.std(one)
