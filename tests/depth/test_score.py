"""Log-probabilities of a text, by a slow twin."""

import jax
import numpy as np
import pytest
from parity_grid import families
from tiny import model_of, prompts

import jaxdepth
from jaxdepth.depth.score import token_logprobs


@pytest.mark.parametrize("length", [64, 33, 16, 1])
def test_equals_the_slow_twin(length):
    model = model_of(families()["ministral"])
    tokens, lengths = prompts()
    tokens, lengths = tokens[:, :length], np.minimum(lengths, length)
    actual = token_logprobs(model, tokens, lengths)
    assert actual.shape == tokens.shape
    for b in range(3):
        for s in range(length):
            if s == 0 or s >= lengths[b]:
                assert np.isnan(actual[b, s])
                continue
            logits = jaxdepth.exit_logits(model, tokens[b : b + 1], np.array([s]), 4)[0]
            expected = jax.nn.log_softmax(logits)[tokens[b, s]]
            assert actual[b, s] == pytest.approx(float(expected), abs=2e-5)
