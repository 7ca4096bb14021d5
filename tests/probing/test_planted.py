"""Estimators against known truth: synthetic curves, and models whose layers are set by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdepth import InputError
from jaxdepth.probing.categories import category_directions, category_scores, cosines
from jaxdepth.probing.folds import make_folds
from jaxdepth.probing.planted import (
    LONGEST,
    MARKER,
    MOOD_WORD,
    WORD,
    WORDS,
    planted,
    planted_prompts,
)
from jaxdepth.stats.change_point import change_point, lag
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.ranking import auroc

pytestmark = pytest.mark.usefixtures("quick_programs")

layers_X = np.arange(13)
STEP = 0.5 + 0.3 * (layers_X >= 5)
RAMP = 0.5 + 0.3 * np.clip((layers_X - 2) / 6, 0, 1)
FLAT = np.full(13, 0.5)


@pytest.fixture(scope="module")
def study(import_tool):
    return import_tool("planted_study")


def measured(truth_X, seed: int, error: float = 0.03, shared: float = 0.03, resamples: int = 300):
    """A curve with errors of its layers and one that they share, and resamples with the same."""
    rng = np.random.default_rng(seed)

    def errors(rows):
        own, common = rng.standard_normal((rows, len(truth_X))), rng.standard_normal((rows, 1))
        return error * own + shared * common

    curve_X = truth_X + errors(1)[0]
    return curve_X, curve_X + errors(resamples)


def kinds(truth_X, trials: int = 200) -> dict[str, int]:
    kinds = [change_point(*measured(truth_X, seed)).kind for seed in range(trials)]
    return {kind: kinds.count(kind) for kind in ("jump", "gradual", "none")}


def rarer_than(rate: float, count: int, total: int) -> bool:
    """Whether so many of a kind do not speak against that rate at 1%."""
    return binomtest(count, total, rate, alternative="greater").pvalue > 0.01


def test_planted_step_is_found():
    for place in (1, 5, 12):
        point = change_point(*measured(0.5 + 0.3 * (layers_X >= place), seed=place))
        assert (point.kind, point.midpoint[:3]) == ("jump", (place, place, place))
        assert point.onset.layer == place
        assert point.onset.low <= place <= point.onset.high
        assert point.rise_low < 0.3 < point.rise_high
        assert point.rise_high - point.rise_low < 0.25
    exits = change_point(*measured(STEP[1:], seed=0), first=1)
    assert (exits.midpoint.layer, exits.onset.layer) == (5, 5)
    exact = change_point(STEP, np.tile(STEP, (99, 1)))  # no errors at all
    assert (exact.kind, exact.midpoint.layer, exact.p_rise) == ("jump", 5, 0.01)
    assert exact.onset[:3] == (5, 5, 5)


def test_planted_shapes_are_told_apart():
    ramps, steps, flats = kinds(RAMP), kinds(STEP), kinds(FLAT)
    assert ramps["gradual"] > 190
    assert steps["none"] == 0
    assert rarer_than(0.05, steps["gradual"], 200)
    assert rarer_than(0.05, 200 - flats["none"], 200)
    assert flats["none"] < 200  # a test that never errs has no power either
    assert change_point(*measured(STEP[::-1], seed=0)).kind == "none"  # a fall is no rise


def test_planted_step_is_covered_where_it_is_hard_to_see():
    points = [change_point(*measured(STEP, seed, error=0.15)) for seed in range(200)]
    assert 100 < sum(p.midpoint.layer == 5 for p in points) < 180
    assert rarer_than(0.05, sum(not p.midpoint.low <= 5 <= p.midpoint.high for p in points), 200)
    assert rarer_than(0.05, sum(not p.onset.low <= 5 <= p.onset.high for p in points), 200)
    assert np.mean([p.midpoint.high - p.midpoint.low for p in points]) < 9
    # The place is chosen for its rise: bounds of one place alone would hold the truth too rarely.
    flats = [change_point(*measured(FLAT, seed, error=0.15)) for seed in range(200)]
    assert rarer_than(0.05, sum(not p.rise_low <= 0 <= p.rise_high for p in flats), 200)


def test_planted_lag_has_the_interval_of_shared_resamples():
    # Both steps move together in the resamples: their distance is known better than their layers.
    rng = np.random.default_rng(0)
    moved_R = rng.integers(-1, 2, 200)[:, None]
    first, second = (
        change_point(0.3 * (layers_X >= place), 0.3 * (layers_X >= place + moved_R))
        for place in (4, 9)
    )
    assert first.midpoint[1:3] == first.onset[1:3] == (3, 5)
    assert lag(first, second) == ((5, 5, 5), (5, 5, 5))
    holed = 0.3 * (layers_X >= 9 + moved_R)
    holed[3] = np.nan
    holed = change_point(0.3 * (layers_X >= 9), holed)
    assert np.isnan([holed.midpoint.layers_R[3], holed.onset.layers_R[3]]).all()
    assert lag(first, holed) == ((5, 5, 5), (5, 5, 5))
    with pytest.raises(InputError, match="same resamples"):
        lag(first, change_point(STEP, STEP[None]))


def test_planted_curves_that_cannot_be_read():
    with pytest.raises(InputError, match="2 layers"):
        change_point(STEP[:2], STEP[None, :2])
    with pytest.raises(InputError, match="resamples of shape"):
        change_point(STEP, STEP[None, :5])
    for curve, resamples in ((STEP * np.nan, STEP[None]), (STEP, STEP[None] * np.nan)):
        with pytest.raises(InputError, match="NaN"):
            change_point(curve, resamples)


def test_planted_prompts_differ_within_pairs_by_their_content():
    prompts = planted_prompts(count=160, categories=4, seed=1)
    assert prompts.harmful_N.sum() == 80
    assert set(prompts.category_NK.sum(axis=1)[prompts.harmful_N]) == {1, 2}
    assert not prompts.category_NK[~prompts.harmful_N].any()
    numbers, counts = np.unique(prompts.pair_N, return_counts=True)
    assert (counts == 2).sum() == 40
    for pair in numbers[counts == 2]:
        rows = np.flatnonzero(prompts.pair_N == pair)
        assert prompts.harmful_N[rows].sum() == 1
        assert len(set(prompts.lengths_N[rows])) == len(set(prompts.mood_N[rows])) == 1
        first, second = prompts.tokens_NS[rows]
        differ = first != second
        assert 1 <= differ.sum() <= 2
        ends = WORD + WORDS * 5
        assert (np.stack([first, second])[:, differ] >= WORD).all()
        assert (np.stack([first, second])[:, differ] < ends).all()
    mood = (prompts.tokens_NS == MOOD_WORD + 1).any(axis=1)
    assert np.array_equal(mood, prompts.mood_N)
    assert len(set(prompts.lengths_N)) > 3
    assert prompts.lengths_N.max() == LONGEST


def test_planted_model_does_what_it_says(study):
    a, b = 3, 7
    prompts = planted_prompts(seed=2)
    activity = study.run(planted(a, b, study.LAYERS, seed=2), prompts)
    pairs = [np.flatnonzero(prompts.pair_N == pair) for pair in range(40)]
    first, second = (activity.x_JND[:, [pair[i] for pair in pairs]] for i in (0, 1))
    gap_JP = np.abs(first - second).max(axis=2)
    assert gap_JP[:a].max() < 1e-4  # until content comes, the two prompts of a pair are equal
    assert gap_JP[a:].min() > 0.9
    refused_EN = activity.log_odds_EN > 0
    assert not refused_EN[: b - 1].any()
    assert (refused_EN[b - 1 :] == (prompts.harmful_N & prompts.mood_N)).all()
    # An OR: with two categories as with one.
    count_N = prompts.category_NK.sum(axis=1)
    one, two = (activity.log_odds_EN[-1][prompts.mood_N & (count_N == n)].mean() for n in (1, 2))
    assert abs(one - two) < 0.4
    for wrong in ((0, 3), (3, 3), (4, 13)):
        with pytest.raises(InputError, match="expected 1 <= a < b <= 12"):
            planted(*wrong)
    nothing = study.run(planted(None, None, study.LAYERS, seed=2), prompts)
    assert np.array_equal(nothing.x_JND[:, pairs[0][0]], nothing.x_JND[:, pairs[0][1]])


@pytest.mark.parametrize(("a", "b"), [(1, 2), (3, 9), (5, 12), (11, 12)])
def test_planted_layers_are_recovered(study, a, b):
    result = study.estimate_planted(a, b, seed=a)
    for point, place in ((result.content, a), (result.behaviour, b), (result.refusal, b)):
        assert point.kind != "none"
        assert point.midpoint.layer == place
        for layer in (point.midpoint, point.onset):
            assert layer.low <= place <= layer.high
    assert result.lag.midpoint.layers == b - a
    for layers in result.lag:
        assert layers.low <= b - a <= layers.high
    content_J = result.curves["content"].value_X
    assert np.abs(content_J[:a] - 0.5).max() < 0.1
    assert content_J[a:].min() > 0.75
    assert content_J[a:].max() < 0.95


def test_planted_confound_is_exposed_by_transfer(study):
    a, b = 6, 9
    inside, outside = study.transfer(a, b, seed=0)
    assert inside.value_X.min() > 0.8
    assert np.abs(outside.value_X[:a] - 0.5).max() < 0.1
    assert outside.value_X[a:].min() > outside.value_X[:a].max() + 0.05
    assert inside.value_X[:a].min() > outside.value_X[a:].max()
    for confound, low, high in ((True, 0.8, 1), (False, 0.4, 0.6)):
        prompts = planted_prompts(confound=confound, seed=0)
        marked_N = (prompts.tokens_NS == MARKER + 1).any(axis=1)
        assert low < auroc(marked_N[None], prompts.harmful_N)[0] < high  # what counts of words see
    # The model must show the marker, or in distribution there is nothing to be misled by.
    plain = planted_prompts(confound=True, seed=0)
    times = resample_counts(plain.pair_N, 2)
    x_JND = study.run(planted(a, b, study.LAYERS), plain).x_JND
    curve, _ = study.fitted(x_JND, plain.harmful_N, plain.pair_N, times, 0)
    assert curve.value_X[:a].max() < 0.6


def test_planted_or_is_recovered(study):
    scored = study.score(seed=0)
    result = scored.compare(scored.log_odds_N)
    assert result.low > 0.1
    assert result.or_ > 0.8
    noise_N = np.random.default_rng(0).standard_normal(len(scored.fold_N)) / 2
    for weights_K in (np.ones(5), np.arange(1, 6)):
        each_NK = scored.category_NK * weights_K
        assert scored.compare(each_NK.sum(axis=1) + noise_N).high < 0
        assert scored.compare(each_NK.max(axis=1) + noise_N).low > 0
    # Without two categories nothing tells an OR from a sum.
    single_N = scored.category_NK.sum(axis=1) < 2
    *rows, counts_NR = (rows[single_N] for rows in (*scored[:4], scored.counts_RN.T))
    single = study.Scored(*rows, counts_NR.T)
    test = single.compare(single.category_NK.sum(axis=1) + noise_N[single_N])
    assert abs(test.difference) < 0.01
    assert test.sum > 0.3
    with pytest.raises(InputError, match="two folds"):
        scored._replace(fold_N=np.zeros_like(scored.fold_N)).compare(noise_N)


def test_planted_categories_have_their_directions(study):
    prompts = planted_prompts(seed=3)
    x_JND = study.run(planted(4, 8, study.LAYERS, seed=3), prompts).x_JND
    harmful_N, category_NK = prompts.harmful_N, prompts.category_NK
    directions_KD = category_directions(x_JND[6], harmful_N, category_NK)
    by_hand = x_JND[6][category_NK[:, 2]].mean(axis=0) - x_JND[6][~harmful_N].mean(axis=0)
    assert np.allclose(directions_KD[2], by_hand, atol=1e-4)
    cosine_KK = cosines(directions_KD)
    assert np.allclose(np.diag(cosine_KK), 1)
    assert np.allclose(cosine_KK[0, 1] * np.prod(np.linalg.norm(directions_KD[:2], axis=1)),
                       directions_KD[0] @ directions_KD[1])  # fmt: skip
    with pytest.raises(InputError, match="no prompt"):
        category_directions(x_JND[6], np.ones_like(harmful_N), category_NK)

    fold_N = make_folds(prompts.pair_N.tolist(), harmful_N)
    out_N = fold_N == 1
    score_NK = category_scores(x_JND[6], harmful_N, category_NK, fold_N)
    singles_N = category_NK.sum(axis=1) == 1
    assert score_NK[singles_N & category_NK[:, 2]].mean(axis=0).argmax() == 2
    # A fold's own prompts have no say in its scores: its score is linear in what changes there.
    longer_ND = np.where(out_N[:, None], 2 * x_JND[6], x_JND[6])
    gain_NK = category_scores(longer_ND, harmful_N, category_NK, fold_N) - score_NK
    rest = (rows[~out_N] for rows in (x_JND[6], harmful_N, category_NK))
    expected_NK = x_JND[6][out_N] @ np.linalg.pinv(category_directions(*rest))
    assert np.allclose(gain_NK[out_N], expected_NK, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "noise"), [(160, 0.35), (80, 0.6)])
def test_planted_truth_is_covered_and_nothing_is_not_found(study, prompts, noise):
    counts = study.count(200, prompts, noise)
    print(study.table(counts))
    for name, result in counts.detected.items():
        assert study.p_covers(counts.covered[name], result) > 0.01, name
        assert study.p_covers(counts.covered_onset[name], result) > 0.01, name
        assert study.p_claims(counts.claimed[name], counts.seeds) > 0.01, name
        assert counts.detected[name] > counts.seeds / 2, name
