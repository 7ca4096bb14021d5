"""AUROC and the rates of probes, against scikit-learn and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from jaxdepth.errors import InputError
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.ranking import auroc, tpr_at_fpr


def looped(score_N, y_N, fold_N, counts_N):
    """AUROC over all pairs of resampled examples within a fold, one pair at a time."""
    drawn = [n for n in range(len(y_N)) for _ in range(int(counts_N[n]))]
    wins = pairs = 0
    for i in drawn:
        for j in drawn:
            if y_N[i] and not y_N[j] and fold_N[i] == fold_N[j]:
                wins += (score_N[i] > score_N[j]) + (score_N[i] == score_N[j]) / 2
                pairs += 1
    return wins / pairs if pairs else np.nan


def some_scores(X, N, seed=0):
    rng = np.random.default_rng(seed)
    y_N = rng.random(N) < 0.4
    score_XN = np.round(rng.standard_normal((X, N)) + 0.5 * y_N, 1)  # with ties
    return score_XN.astype(np.float32), y_N, rng.integers(0, 3, N)


def test_one_fold_is_the_auroc_of_scikit_learn():
    score_XN, y_N, _ = some_scores(4, 200)
    expected_X = [roc_auc_score(y_N, score_N) for score_N in score_XN]
    assert np.allclose(auroc(score_XN, y_N), expected_X, rtol=0, atol=1e-12)
    assert np.allclose(auroc(score_XN, y_N.astype(int)), expected_X)


def test_folds_and_resamples_equal_a_loop():
    score_XN, y_N, fold_N = some_scores(3, 40)
    counts_RN = resample_counts(np.arange(40) // 2, resamples=6)
    result_RX = auroc(score_XN, y_N, fold_N, counts_RN)
    for r, counts_N in enumerate(counts_RN):
        for x, score_N in enumerate(score_XN):
            expected = looped(score_N, y_N, fold_N, counts_N)
            assert result_RX[r, x] == pytest.approx(expected, abs=1e-12)
    expected_X = [looped(score_N, y_N, fold_N, np.ones(40)) for score_N in score_XN]
    assert np.allclose(auroc(score_XN, y_N, fold_N), expected_X)


def test_resampled_aurocs_are_those_of_scikit_learn():
    score_XN, y_N, _ = some_scores(2, 300)
    counts_RN = resample_counts(np.arange(300), resamples=5)
    result_RX = auroc(score_XN, y_N, counts_RN=counts_RN)
    for r, counts_N in enumerate(counts_RN):
        expected_X = [roc_auc_score(y_N, score_N, sample_weight=counts_N) for score_N in score_XN]
        assert np.allclose(result_RX[r], expected_X)


def test_scores_of_different_folds_are_not_compared():
    score_XN, y_N, fold_N = some_scores(2, 100)
    assert np.allclose(auroc(score_XN, y_N, fold_N), auroc(score_XN + 100 * fold_N, y_N, fold_N))
    assert not np.allclose(auroc(score_XN, y_N), auroc(score_XN + 100 * fold_N, y_N))


def test_a_resample_without_a_pair_has_no_auroc():
    counts_RN = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1.0]])
    result_RX = auroc(np.array([[1, 2, 3, 4.0]]), np.array([0, 0, 1, 1]), counts_RN=counts_RN)
    assert np.isnan(result_RX[:2]).all()
    assert result_RX[2] == 1


def test_the_auroc_of_nothing_is_an_error():
    with pytest.raises(InputError, match="no fold has both classes"):
        auroc(np.zeros((1, 4)), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    with pytest.raises(InputError, match="not a number"):
        auroc(np.array([[np.nan, 1]]), np.array([0, 1]))


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.29, 1.0])
def test_tpr_is_the_best_of_the_roc_curve(fpr):
    for seed in range(20):
        score_XN, y_N, _ = some_scores(1, 250, seed)
        fprs, tprs, _ = roc_curve(y_N, score_XN[0], drop_intermediate=False)
        expected = tprs[fprs <= fpr + 1e-12].max()
        assert tpr_at_fpr(score_XN[0], y_N, fpr) == pytest.approx(expected)


def test_tpr_counts_whole_negatives():
    score_N, y_N = np.arange(200.0), np.arange(200) >= 100
    assert tpr_at_fpr(score_N[::-1], y_N, 0.29) == 0
    mixed_N = np.concatenate([np.arange(100.0), np.arange(100) + 0.5])
    assert tpr_at_fpr(mixed_N, y_N, 0.29) == pytest.approx(0.3)


def test_tpr_needs_both_classes():
    with pytest.raises(InputError, match="both classes"):
        tpr_at_fpr(np.arange(3.0), np.ones(3, bool))
