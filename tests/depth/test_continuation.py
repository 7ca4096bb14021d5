"""Log-probabilities of continuations that share prefixes, by a slow twin."""

import numpy as np
import pytest
from parity_grid import families
from scipy.special import log_softmax
from tiny import model_of

from jaxdepth import InputError, exit_logits
from jaxdepth.depth.continuation import continuation_logprobs

pytestmark = pytest.mark.usefixtures("quick_programs")
LONGEST = 17 + 20  # of a prefix with its continuation, below


def logprobs_alone(model, tokens: list[int]) -> np.ndarray:
    """The slow twin: each token after a prompt of its own, at full depth; all of one shape."""
    prompts = np.zeros((LONGEST, LONGEST), np.int64)
    prompts[:, : len(tokens)] = tokens
    lengths = np.minimum(np.arange(1, LONGEST + 1), len(tokens))
    logits = exit_logits(model, prompts, lengths, model.depth)
    logp = log_softmax(np.asarray(logits, np.float64), axis=-1)
    return np.append(np.nan, logp[np.arange(len(tokens) - 1), tokens[1:]])


@pytest.mark.parametrize("family", ["mistral-7b-v0.1", "ministral", "llama-3.1", "smollm2"])
def test_equals_scoring_each_text_alone(family):
    model = model_of(families()[family])
    rng = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    prefixes = [rng.integers(vocabulary, size=n).tolist() for n in (5, 0, 17, 1)]
    prefix_of = [0, 2, 1, 0, 3, 2, 0]
    continuations = [rng.integers(vocabulary, size=n).tolist() for n in (3, 20, 6, 1, 9, 16, 0)]
    scores = continuation_logprobs(model, prefixes, continuations, prefix_of, batch_size=4)
    for score, group, tokens in zip(scores, prefix_of, continuations, strict=True):
        assert len(score) == len(tokens)
        if not tokens:
            continue
        alone = logprobs_alone(model, prefixes[group] + tokens)[len(prefixes[group]) :]
        np.testing.assert_allclose(score, alone, atol=2e-5)
    assert np.isnan(scores[2][0])  # nothing precedes the first token
    assert not np.isnan(scores[2][1:]).any()


def test_refuses_what_the_model_cannot_read():
    model = model_of(families()["llama-2"])
    too_long = [0] * (model.config.max_position_embeddings + 1)
    with pytest.raises(InputError, match="tokens long, the model allows"):
        continuation_logprobs(model, [[1]], [too_long], [0])
    with pytest.raises(InputError, match="not in the vocabulary"):
        continuation_logprobs(model, [[-1]], [[1]], [0])
