"""Log-probabilities of continuations that share prefixes, by a slow twin."""

import numpy as np
import pytest
from parity_grid import families
from scipy.special import log_softmax
from tiny import model_of

from jaxdepth import InputError, exit_logits
from jaxdepth.depth import continuation, continuation_batches
from jaxdepth.depth.continuation import continuation_logprobs, continuation_scores, scoring_batches

pytestmark = pytest.mark.usefixtures("quick_programs")
LONGEST = 17 + 20  # of a prefix with its continuation, below


def logprobs_alone(model, tokens: list[int], exit_layer: int | None = None) -> np.ndarray:
    """The slow twin: what may come after each token, each after a prompt of its own."""
    prompts = np.zeros((LONGEST, LONGEST), np.int64)
    prompts[:, : len(tokens)] = tokens
    lengths = np.minimum(np.arange(1, LONGEST + 1), len(tokens))
    logits = exit_logits(model, prompts, lengths, exit_layer or model.depth)
    return log_softmax(np.asarray(logits, np.float64), axis=-1)[: len(tokens) - 1]


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
        logprobs = logprobs_alone(model, prefixes[group] + tokens)[-len(tokens) :]
        alone = logprobs[np.arange(len(logprobs)), tokens[-len(logprobs) :]]
        np.testing.assert_allclose(score[-len(alone) :], alone, atol=2e-5)
    assert np.isnan(scores[2][0])  # nothing precedes the first token
    assert not np.isnan(scores[2][1:]).any()


@pytest.mark.parametrize("family", ["ministral", "llama-3.1"])
def test_every_exit_equals_scoring_each_text_alone(family, monkeypatch):
    """In blocks, with queries that attend in parts, and more rows than fit one batch."""
    monkeypatch.setattr(continuation, "_LOGITS", 1)
    for module in (continuation, continuation_batches):
        monkeypatch.setattr(module, "QUERIES", 8)
    model = model_of(families()[family])
    rng = np.random.default_rng(1)
    prefixes = [rng.integers(model.config.vocab_size, size=n).tolist() for n in (5, 17, 2)]
    prefix_of = [0, 1, 0, 1, 1, 1, 2]
    lengths = (3, 20, 1, 9, 1, 2, 1)
    continuations = [rng.integers(model.config.vocab_size, size=n).tolist() for n in lengths]
    exits = [4, 1, 3]
    best = [int(logprobs_alone(model, [*prefixes[1], 0], e)[-1].argmax()) for e in exits]
    continuations[5][0] = best[1]  # the most probable first token of one exit
    scores = continuation_scores(model, prefixes, continuations, prefix_of, exits, batch_size=3)
    for score, group, tokens in zip(scores, prefix_of, continuations, strict=True):
        for e, exit_layer in enumerate(exits):
            logprobs = logprobs_alone(model, prefixes[group] + tokens, exit_layer)[-len(tokens) :]
            alone = logprobs[np.arange(len(tokens)), tokens]
            np.testing.assert_allclose(score.logprob_ET[e], alone, atol=2e-5)
            assert (score.is_top_ET[e] == (logprobs.argmax(axis=-1) == tokens)).all()
    assert scores[5].is_top_ET[:, 0].tolist() == [token == best[1] for token in best]


def test_a_prefix_passes_once_and_padding_is_not_read():
    """Costs, counted: one prefix for its four choices, and no place that no token needs."""
    model = model_of(families()["llama-2"])
    (batch,) = scoring_batches(model, [[1, 2, 3]], [[4], [5], [6, 7], [8]], [0] * 4, 16)
    assert batch.prefix_ZS.shape == (1, 16)
    assert batch.tokens_NT.shape == (4, 1)
    assert len(set(batch.place_P[: batch.blocks * batch.block].tolist())) == 2
    (one_token,) = scoring_batches(model, [[1, 2, 3]], [[4], [5]], [0, 0], 16)
    assert one_token.tokens_NT.shape == (2, 0)


def test_refuses_what_the_model_cannot_read():
    model = model_of(families()["llama-2"])
    too_long = [0] * (model.config.max_position_embeddings + 1)
    with pytest.raises(InputError, match="tokens long, the model allows"):
        continuation_logprobs(model, [[1]], [too_long], [0])
    with pytest.raises(InputError, match="not in the vocabulary"):
        continuation_logprobs(model, [[-1]], [[1]], [0])
