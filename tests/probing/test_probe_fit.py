"""Probes against scikit-learn, and folds that do not read what they are tested on."""

import warnings

import ml_dtypes
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxdepth.errors import InputError
from jaxdepth.probing import newton
from jaxdepth.probing.fit import LinearProbes, decide, fit_difference, fit_logistic
from jaxdepth.probing.folds import choose_slice, cross_fit, make_folds
from jaxdepth.stats.ranking import auroc

pytestmark = pytest.mark.usefixtures("quick_programs")
STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)


def some_folds(N, F, rng):
    fold_N = rng.permutation(N) % F
    return np.stack([(fold_N != f) & (fold_N != (f + 1) % F) for f in range(F)])


def activations(N, D, seed=0):
    """Slices (6, N, D) of the kinds that residual streams have, and labels."""
    rng = np.random.default_rng(seed)
    y_N = np.arange(N) % 2
    turn_DD = np.linalg.qr(rng.standard_normal((D, D)))[0]
    white = rng.standard_normal((N, D))
    steep = white * np.arange(1, D + 1) ** -1.2 @ turn_DD + 3 * rng.standard_normal(D)
    signal = (y_N[:, None] - 0.5) * rng.standard_normal(D)
    massive = white + 0.3 * signal
    massive[:, 7] = 300 + 100 * rng.random(N)
    few = rng.standard_normal((12, D))[rng.integers(0, 12, N)]  # as after one of 12 tokens
    kinds = [white, white + 0.3 * signal, steep, massive, few, 0.05 * white + 5]
    return np.stack(kinds).astype(np.float32), y_N


def sklearn_decisions(x_ND, y_N, train_N, strength):
    """Decision values of one probe, the slow way."""
    x_ND = x_ND.astype(np.float64)
    z_ND = x_ND - x_ND[train_N].mean(axis=0)
    z_ND /= np.sqrt(x_ND[train_N].var(axis=0).mean())
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it did not converge
        return model.fit(z_ND[train_N], y_N[train_N]).decision_function(z_ND)


def worst(x_GND, y_N, train_FN, strengths, only=slice(None)):
    result_GFCN = decide(fit_logistic(x_GND, y_N, train_FN, strengths), x_GND)
    return max(
        np.abs(result_GFCN[g, f, c] - sklearn_decisions(x_ND, y_N, train_FN[f], strength)).max()
        for g, x_ND in enumerate(x_GND)
        for f in range(len(train_FN))[only]
        for c, strength in enumerate(strengths)
    )


@pytest.mark.parametrize(("N", "D"), [(90, 30), (80, 100), (60, 150)])
def test_logistic_probes_are_those_of_scikit_learn(N, D):
    x_GND, y_N = activations(N, D)
    train_FN = some_folds(N, 3, np.random.default_rng(1))
    assert worst(x_GND, y_N, train_FN, STRENGTHS) < 1e-3


@pytest.mark.slow
def test_full_size_logistic_probes_are_those_of_scikit_learn():
    x_GND, y_N = activations(512, 576)
    train_FN = some_folds(512, 5, np.random.default_rng(1))
    assert worst(x_GND, y_N, train_FN, (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), slice(2)) < 1e-3


def test_each_fold_has_its_own_scale():
    """Rows outside of training may be of any size."""
    x_GND, y_N = activations(60, 20)
    x_GND, train_FN = x_GND[:1], some_folds(60, 3, np.random.default_rng(1))
    x_GND[:, ~train_FN[0]] *= 30
    assert worst(x_GND, y_N, train_FN, (1.0,)) < 1e-3


def test_half_precision_is_read_as_float32():
    x_GND, y_N = activations(60, 20)
    train_FN = some_folds(60, 3, np.random.default_rng(1))
    half_GND = x_GND[:1].astype(ml_dtypes.bfloat16)
    result = fit_logistic(half_GND, y_N == 1, train_FN, (1.0,))
    expected = fit_logistic(half_GND.astype(np.float32), y_N, train_FN, (1.0,))
    assert np.array_equal(result.weights_GFCD, expected.weights_GFCD)
    assert np.array_equal(decide(result, half_GND), decide(expected, half_GND))


def test_what_did_not_converge_is_an_error(monkeypatch):
    x_GND, y_N = activations(40, 10)
    train_FN = some_folds(40, 4, np.random.default_rng(1))
    monkeypatch.setattr(newton, "_STEPS", 1)
    monkeypatch.setattr(newton, "_CLOSE", 0)
    with pytest.raises(InputError, match="of slice 0 did not converge: take strengths below 100"):
        fit_logistic(x_GND, y_N, train_FN, (100.0,))


def test_a_probe_does_not_depend_on_the_other_strengths():
    """Each starts at the minimum of the next smaller strength, and ends at its own."""
    x_GND, y_N = activations(60, 20)
    train_FN = some_folds(60, 4, np.random.default_rng(1))
    together = decide(fit_logistic(x_GND, y_N, train_FN, (100.0, 1e-4, 0.1)), x_GND)
    for c, strength in enumerate((100.0, 1e-4, 0.1)):
        alone = decide(fit_logistic(x_GND, y_N, train_FN, (strength,)), x_GND)
        np.testing.assert_allclose(together[:, :, c], alone[:, :, 0], atol=1e-3)


def test_a_difference_of_means():
    x_GND, y_N = activations(40, 10)
    train_FN = some_folds(40, 4, np.random.default_rng(1))
    probes = fit_difference(x_GND, y_N, train_FN)
    assert probes.weights_GFCD.shape == (6, 4, 1, 10)
    for g, x_ND in enumerate(x_GND.astype(np.float64)):
        for f, train_N in enumerate(train_FN):
            zero_D, one_D = (x_ND[train_N & (y_N == label)].mean(axis=0) for label in (0, 1))
            expected_N = (x_ND - (zero_D + one_D) / 2) @ (one_D - zero_D)
            scale = np.abs(x_ND).max() ** 2
            assert np.allclose(decide(probes, x_GND)[g, f, 0], expected_N, atol=3e-6 * scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_GND": np.full((1, 8, 2), np.inf, np.float32)}, "not finite"),
        ({"x_GND": np.ones((8, 2), np.float32)}, r"expected \(G, N, D\)"),
        ({"y_N": np.arange(7) % 2}, r"labels of \(7,\)"),
        ({"y_N": np.arange(8) % 3}, "labels other than 0 and 1"),
        ({"train_FN": np.ones((1, 8))}, "expected bool"),
        ({"train_FN": np.arange(8)[None] % 2 == 0}, "fold 0 does not train on both"),
        ({"strengths_C": (1.0, 0.0)}, "numbers above 0"),
        ({"strengths_C": (np.nan,)}, "numbers above 0"),
    ],
)
def test_wrong_input_is_told_in_one_line(change, message):
    rng = np.random.default_rng(0)
    right = {
        "x_GND": rng.standard_normal((1, 8, 2), np.float32),
        "y_N": np.arange(8) % 2,
        "train_FN": np.ones((1, 8), bool),
        "strengths_C": (1.0,),
    }
    with pytest.raises(InputError, match=message) as error:
        fit_logistic(**right | change)
    assert "\n" not in str(error.value)


def test_folds_keep_groups_whole_and_classes_even():
    rng = np.random.default_rng(0)
    groups = [f"g{g}" for g in rng.integers(0, 60, 300)]
    y_N = (rng.random(300) < 0.2).astype(int)
    fold_N = make_folds(groups, y_N)
    for group in set(groups):
        assert len({f for g, f in zip(groups, fold_N, strict=True) if g == group}) == 1
    for label in (0, 1):
        counts = np.bincount(fold_N[y_N == label], minlength=5)
        assert counts.max() - counts.min() <= 3
    assert np.array_equal(fold_N, make_folds(groups, y_N))
    assert not np.array_equal(fold_N, make_folds(groups, y_N, seed=1))


def test_pairs_split_exactly():
    groups = [(pair, "any hashable") for pair in range(40) for _ in range(2)]
    y_N = np.arange(80) % 2
    assert np.array_equal(np.bincount(make_folds(groups, y_N, 5)), [16] * 5)


def test_too_few_groups_for_the_folds():
    with pytest.raises(InputError, match="class 1 has 3 groups for 5 folds"):
        make_folds(list("abcdefgh"), np.array([0, 0, 0, 0, 0, 1, 1, 1]))


def crossing(seed=0):
    """Features (3, N, D) of which only slice 1 tells anything, labels and folds."""
    rng = np.random.default_rng(seed)
    y_N = np.arange(120) % 2
    x_GND = rng.standard_normal((3, 120, 8)).astype(np.float32)
    x_GND[1, :, 0] += 2 * y_N
    return x_GND, y_N, make_folds(np.arange(120) // 2, y_N, 5)


def test_cross_fit_equals_a_loop():
    x_GND, y_N, fold_N = crossing()
    strengths = (1.0, 1e-3, 100.0)
    result = cross_fit(x_GND, y_N, fold_N, strengths)
    for g in range(3):
        for f in range(5):
            choose_N, train_N = fold_N == (f + 1) % 5, (fold_N != f) & (fold_N != (f + 1) % 5)
            best = (-1.0, None, None)
            for strength in sorted(strengths):
                score_N = sklearn_decisions(x_GND[g], y_N, train_N, strength)
                area = auroc(score_N[choose_N][None], y_N[choose_N])[0]
                if area > best[0]:
                    best = area, strength, score_N
            assert result.validation_GF[g, f] == pytest.approx(best[0])
            assert result.strength_GF[g, f] == best[1]
            test_N = fold_N == f
            assert np.allclose(result.score_GN[g, test_N], best[2][test_N], atol=1e-3)
            again_N = x_GND[g] @ result.weights_GFD[g, f] + result.bias_GF[g, f]
            assert np.allclose(again_N[test_N], result.score_GN[g, test_N], atol=1e-4)


def test_no_choice_reads_a_test_row():
    x_GND, y_N, fold_N = crossing()
    rng = np.random.default_rng(5)
    before = cross_fit(x_GND, y_N, fold_N, STRENGTHS)
    chosen_F = choose_slice(before.validation_GF, before.score_GN, fold_N)[1]
    for f in range(5):
        other_GND, other_N, test_N = x_GND.copy(), y_N.copy(), fold_N == f
        other_GND[:, test_N] = 10 * rng.standard_normal((3, test_N.sum(), 8))
        other_N[test_N] = rng.permutation(y_N[test_N])
        after = cross_fit(other_GND, other_N, fold_N, STRENGTHS)
        assert np.array_equal(after.strength_GF[:, f], before.strength_GF[:, f])
        assert np.array_equal(after.validation_GF[:, f], before.validation_GF[:, f])
        assert np.allclose(after.weights_GFD[:, f], before.weights_GFD[:, f], atol=1e-4)
        again_F = choose_slice(after.validation_GF, after.score_GN, fold_N)[1]
        assert again_F[f] == chosen_F[f]
        assert not np.allclose(after.score_GN[:, test_N], before.score_GN[:, test_N], atol=0.1)


def test_equal_strengths_choose_the_strongest_regularisation():
    x_GND, y_N, fold_N = crossing()
    result = cross_fit(x_GND, y_N, fold_N, (9.0, 1.0, 3.0), fit=fit_difference)
    assert (result.strength_GF == 1).all()


def test_the_slice_is_chosen_within_each_fold():
    validation_GF = np.array([[0.9, 0.5, 0.7], [0.8, 0.6, 0.7]])
    score_GN = np.array([[1, 2, 3, 4], [5, 6, 7, 8.0]])
    score_N, slice_F = choose_slice(validation_GF, score_GN, np.array([0, 1, 2, 1]))
    assert slice_F.tolist() == [0, 1, 0]
    assert score_N.tolist() == [1, 6, 3, 8]


def test_cross_fit_needs_three_folds():
    x_GND, y_N, _ = crossing()
    with pytest.raises(InputError, match="2 folds"):
        cross_fit(x_GND, y_N, np.arange(120) // 2 % 2, (1.0,))


def test_decision_values_survive_large_features():
    rng = np.random.default_rng(0)
    large_D = rng.standard_normal(100).astype(np.float32) * 1e6
    x_D = rng.permutation(np.concatenate([large_D, -large_D, [1.0]])).astype(np.float32)
    ones_GFCD, none_GFC = np.ones((1, 1, 1, 201), np.float32), np.zeros((1, 1, 1), np.float32)
    assert decide(LinearProbes(ones_GFCD, none_GFC), x_D[None, None]) == pytest.approx(1)


def test_rows_that_are_all_the_same():
    """As of the embedding at a template's token: classes are not separable, and nothing breaks."""
    y_N = np.arange(40) < 10
    x_GND = np.tile(np.float32(np.random.default_rng(0).standard_normal(8) * 100), (1, 40, 1))
    train_FN = some_folds(40, 4, np.random.default_rng(1))
    result_FCN = decide(fit_logistic(x_GND, y_N, train_FN, (1e-3, 1e3)), x_GND)[0]
    share_F = (train_FN & y_N).sum(axis=1) / train_FN.sum(axis=1)
    expected_FCN = np.broadcast_to(np.log(share_F / (1 - share_F))[:, None, None], result_FCN.shape)
    np.testing.assert_allclose(result_FCN, expected_FCN, atol=1e-3)
