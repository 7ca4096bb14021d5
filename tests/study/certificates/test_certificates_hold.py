"""Certificates are wrong as rarely as they say: by many resamplings of a planted truth.

The null hypothesis is planted exactly at the tolerance, where errors are most frequent, for several
risks, rules and sequences whose losses correlate.
"""

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdepth import InputError
from jaxdepth.stats.risk_control import (
    Risk,
    certify_rules,
    count_passed,
    prompts_to_certify,
    risk_p_value,
)

ERROR, TOLERANCE, RESAMPLINGS = 0.05, 0.1, 500
# True rates of three risks under rules of two sequences, from the most conservative on. A rule at
# the tolerance in one risk is no rule to certify, however low its other risks are.
TRUTH_KR = np.array(
    [
        [0.01, 0.02, 0.10, 0.10, 0.01, 0.10],
        [0.01, 0.10, 0.02, 0.10, 0.02, 0.01],
        [0.00, 0.01, 0.01, 0.10, 0.10, 0.02],
    ]
)
SEQUENCES = ([0, 1, 2, 3], [4, 5])
IS_WRONG_R = (TRUTH_KR >= TOLERANCE).any(axis=0)


def sample_losses(seed: int, prompts: int = 120) -> list[np.ndarray]:
    """Losses by risk; half of the prompts have one luck at all rules and risks."""
    rng = np.random.default_rng(seed)
    K, R = TRUTH_KR.shape
    own_NKR, shared_N11 = rng.random((prompts, K, R)), rng.random((prompts, 1, 1))
    luck_NKR = np.where(rng.random((prompts, 1, 1)) < 0.5, shared_N11, own_NKR)
    return [luck_NKR[:, k] < TRUTH_KR[k] for k in range(K)]


def run_tests(losses, sequences=SEQUENCES, error=ERROR, tolerance=TOLERANCE):
    return certify_rules([Risk(loss_NR, tolerance) for loss_NR in losses], sequences, error)


@pytest.fixture(scope="module")
def resamplings():
    return [run_tests(sample_losses(seed)) for seed in range(RESAMPLINGS)]


def speaks_against(count: int) -> bool:
    return binomtest(count, RESAMPLINGS, ERROR, alternative="greater").pvalue <= 0.01


def test_certificates_are_wrong_as_rarely_as_they_say(resamplings):
    count = sum(bool((tests.certified_R & IS_WRONG_R).any()) for tests in resamplings)
    assert not speaks_against(count)
    assert count > 0.2 * ERROR * RESAMPLINGS  # a guarantee that never fails has no power


def passed(p_R, sequences, error) -> np.ndarray:
    certified_R = np.zeros(len(p_R), bool)
    for rules in sequences:
        certified_R[rules[: count_passed(p_R[rules], error)]] = True
    return certified_R


def test_mistakes_in_the_method_are_noticed(resamplings):
    mistakes = {
        "one risk is enough": lambda t: passed(t.p_KR.min(axis=0), SEQUENCES, ERROR / 2),
        "harmful compliance alone": lambda t: passed(t.p_KR[0], SEQUENCES, ERROR / 2),
        "no stop at a failure": lambda t: t.p_R <= ERROR,
    }
    for name, certified_of in mistakes.items():
        count = sum(bool((certified_of(tests) & IS_WRONG_R).any()) for tests in resamplings)
        assert speaks_against(count), name


def test_a_rule_has_the_largest_p_value_of_its_risks():
    losses = sample_losses(0)
    tests = run_tests(losses, error=0.1, tolerance=0.3)
    for k, r in np.ndindex(tests.p_KR.shape):
        assert tests.p_KR[k, r] == risk_p_value(losses[k][:, r], 0.3)
    assert (tests.p_R == tests.p_KR.max(axis=0)).all()
    for rules in SEQUENCES:
        fails = [bool(tests.p_R[r] > 0.05) for r in rules]
        first = fails.index(True) if True in fails else len(rules)
        assert tests.certified_R[rules].tolist() == [n < first for n in range(len(rules))]
    assert run_tests(losses, [[4]], 0.1, 0.3).certified_R.tolist() == [r == 4 for r in range(6)]
    with pytest.raises(InputError, match=r"error is 1\.5"):
        run_tests(losses, error=1.5)


def test_how_many_prompts_it_takes():
    """Without a loss the smallest n with (1 - tolerance) ** n at most the error; by its p-value."""
    assert prompts_to_certify(0.0, 0.05, 0.05) == 59
    assert prompts_to_certify(0.0, 0.1, 0.05) == 29
    for rate, tolerance, error in ((0.25, 0.5, 0.05), (0.1, 0.2, 0.01)):
        n = prompts_to_certify(rate, tolerance, error)
        losses = np.arange(n) < np.ceil(rate * n)
        assert risk_p_value(losses, tolerance) < 2 * error
        fewer = np.arange(n // 2) < np.floor(rate * (n // 2))
        assert risk_p_value(fewer, tolerance) > error
    assert prompts_to_certify(0.1, 0.1, 0.05) is None
    assert prompts_to_certify(0.3, 0.1, 0.05) is None
