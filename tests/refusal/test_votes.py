"""Votes, calibration and risk, each by the plainest code there is."""

import numpy as np
import pytest
from scipy.special import softmax

from jaxdepth.refusal.deliberate import ABSTAINS, Rule
from jaxdepth.refusal.votes import caution, fit_temperature, vote
from jaxdepth.stats.calibration import log_loss, risk_coverage

P = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3], [0.1, 0.15, 0.75]])


@pytest.mark.parametrize(
    ("verdicts", "by", "expected", "agreement"),
    [
        ([0, 2, 1, 2], "majority", 2, 0.5),
        ([0, 2, 0, 2], "majority", 0, 0.5),  # of equals the most cautious
        ([2, 2, 1, 1], "majority", 1, 0.5),
        ([2, 2, 1, 2], "cautious", 1, 0.25),
        ([3, 3, 2, 3], "majority", 2, 0.25),
        ([3, 3, 3, 3], "majority", ABSTAINS, 1.0),
        ([3, 3, 3, 3], "cautious", ABSTAINS, 1.0),
        ([0, 2, 1, 2], "mean", 2, 0.5),
    ],
)
def test_vote(verdicts, by, expected, agreement):
    result = vote(P, np.array(verdicts), by, Rule())
    assert (result.verdict, result.agreement) == (expected, agreement)
    assert np.allclose(result.p, P.mean(axis=0))


def test_the_mean_follows_the_rule():
    rule = Rule(refuse_from=0.2, caution_from=0.5)
    assert vote(P, np.array([2, 2, 2, 2]), "mean", rule).verdict == 0
    assert vote(P, np.array([2, 2, 2, 2]), "mean", Rule(abstain_below=0.9)).verdict == ABSTAINS


def test_fit_temperature_finds_the_one_that_made_the_labels():
    rng = np.random.default_rng(0)
    logp = rng.normal(0, 3, (4000, 3))
    true = rng.random(4000) < softmax(logp / 2.5, axis=-1)[:, :2].sum(-1)
    assert fit_temperature(logp, true) == pytest.approx(2.5, rel=0.15)
    assert np.allclose(caution(logp, 2.5), softmax(logp / 2.5, axis=-1)[:, :2].sum(-1))


def test_log_loss_is_scikit_learns():
    from sklearn.metrics import log_loss as theirs

    rng = np.random.default_rng(0)
    p, true = rng.random(100), rng.random(100) < 0.5
    assert log_loss(p, true) == pytest.approx(theirs(true, p))


def test_risk_coverage():
    margins, right = [0.9, 0.1, 0.5, 0.5, 0.3], np.array([True, False, True, False, True])
    assert risk_coverage(margins, right, (0.2, 0.4, 1.0)) == [
        (0.2, 0.0, 1),
        (0.6, pytest.approx(1 / 3), 3),  # both of equal margin
        (1.0, pytest.approx(0.4), 5),
    ]
