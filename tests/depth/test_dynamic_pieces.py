"""Pieces of dynamic decoding by plain loops, and what `generate_dynamic` refuses."""

import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import spoken_cases
from tiny import NEW_TOKENS, model_of, prompts

from jaxdepth import InputError
from jaxdepth.depth import policies
from jaxdepth.depth.dynamic import generate_dynamic, layers_computed
from jaxdepth.depth.guard import HarmProbe
from jaxdepth.depth.policies import Caching, ExitClassifier, ExitRule, Guard, Policy

T = NEW_TOKENS


@pytest.fixture(scope="module")
def model():
    return model_of(spoken_cases()["mha-below-untied-odd-1e6"])


def test_the_threshold_decays():
    steps, (threshold, decay) = np.arange(T), (0.8, 4.0)
    expected = [0.9 * threshold + 0.1 * np.exp(-decay * t / T) for t in steps]

    def thresholds(threshold, decay):
        both = jnp.float32(threshold), jnp.float32(decay)
        return np.array([policies.threshold_at(*both, jnp.int32(t), T) for t in steps])

    assert np.allclose(thresholds(threshold, decay), expected, atol=1e-6)
    assert thresholds(threshold, decay)[0] == pytest.approx(0.82)
    assert np.allclose(thresholds(0.8, np.nan), 0.8)
    assert np.allclose(thresholds(1.3, 0.0), 1.0)
    assert np.allclose(thresholds(1.3, np.nan), 1.3)


@pytest.mark.parametrize("caching", Caching)
def test_layers_computed_by_a_loop(caching):
    rng = np.random.default_rng(0)
    exits = rng.integers(1, 9, (3, 5, 12))
    lengths = rng.integers(0, 13, (3, 5))
    exits[np.arange(12) >= lengths[..., None]] = 0
    actual = layers_computed(exits, caching)
    for b, r, t in np.ndindex(exits.shape):
        expected = exits[b, r, t]
        if caching == Caching.LATE:
            for later in range(t, lengths[b, r]):
                expected = max(expected, exits[b, r, later])
        assert actual[b, r, t] == expected


def probe_of(layers: int) -> HarmProbe:
    return HarmProbe(np.zeros((layers, 64)), np.zeros((layers, 64)), np.zeros(layers))


def guard_of(*guard) -> ExitRule:
    return ExitRule(Policy.GUARDED, 0.5, guard=Guard(*guard))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rules": []}, "no rules"),
        ({"exits": []}, "no exits"),
        ({"exits": [0, 1]}, "exit 0 is out of range"),
        ({"exits": [2, 5]}, "exit 5 is out of range"),
        ({"exits": [1.5]}, "exit 1.5 is not a whole number"),
        ({"exits": [2, 1, 2]}, "exits 2, 1, 2 repeat one"),
        ({"rules": [ExitRule(Policy.FIXED, 2)]}, "fixed exit 2 is not .*: there are 1, 3, 4$"),
        ({"rules": [ExitRule(Policy.FIXED, 3.5)]}, "fixed exit 3.5 is not"),
        ({"rules": [ExitRule(Policy.ORACLE, 0.5)]}, "threshold of oracle is 0.5, expected 1"),
        ({"classifier": None}, "needs a classifier, but none was given"),
        ({"classifier": ExitClassifier(np.zeros((3, 64)), np.zeros(4))}, r"are \(3, 64\) and"),
        ({"classifier": ExitClassifier(np.zeros((4, 64)), np.zeros(3))}, r"and \(3,\), expected"),
        ({"rules": [guard_of("contant", 1)]}, "no probe 'contant'.*did you mean 'content'"),
        ({"rules": [guard_of("content", 0)]}, "reads layer 0: expected one of 1 to 4"),
        ({"rules": [guard_of("content", 2, 2)]}, "exits at 2, which is no candidate"),
        ({"rules": [guard_of("content", 2, 1)]}, "exits at 1, before layer 2"),
        ({"rules": [guard_of("flat", 1)]}, r"arrays of the probe flat are .*, expected \(5, 64\)"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 193}, "256 that this model takes"),
        ({"samples": 0}, "samples"),
        ({"tokens_BS": np.full((3, 64), 96)}, "not in the vocabulary"),
        ({"memory_budget": 100}, "memory budget is 100"),
    ],
    ids=str,
)
def test_bad_arguments(model, changes, says):
    tokens, lengths = prompts()
    given = {
        "tokens_BS": tokens,
        "lengths_B": lengths,
        "rules": [ExitRule(Policy.CLASSIFIER, 0.5)],
        "exits": [1, 3],
        "max_new_tokens": 2,
        "classifier": ExitClassifier(np.zeros((4, 64)), np.zeros(4)),
        "probes": {"content": probe_of(5), "flat": probe_of(4)},
    }
    with pytest.raises(InputError, match=says) as error:
        generate_dynamic(model, **given | changes)
    assert "\n" not in str(error.value)
