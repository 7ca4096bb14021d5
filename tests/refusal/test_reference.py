"""Scores of replies under a reference model, by slow twins."""

import jax
import numpy as np
import pytest

import jaxdepth
from jaxdepth import InputError
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal import reference as module
from jaxdepth.refusal.reference import Reference, score_alone, score_given
from jaxdepth.refusal.topic import features, topicality

PROMPTS = ["How long do red lentils simmer?", "Why is the sky blue?"]
REPLIES = [
    "Red lentils are soft after fifteen to twenty minutes of simmering.",
    "The sky is blue because air scatters blue light more than red light.",
]


@pytest.fixture(scope="module")
def reference(smollm2):
    model, tokenizer = smollm2
    return Reference(model, PromptEncoder(tokenizer))


def score_replies(reference, texts, prompts, batch_size=2, **sizes):
    sizes |= {"batch_size": batch_size}  # rows are padded to it: SmolLM2 takes long over 32
    return score_given(reference, texts, prompts, score_alone(reference, texts, **sizes), **sizes)


def test_scores_equal_the_slow_twin(reference):
    model, encoder = reference.model, reference.encoder
    scores = score_replies(reference, REPLIES, PROMPTS)
    for prompt, reply, score in zip(PROMPTS, REPLIES, scores, strict=True):
        for before, actual_T in ((prompt, score.given_T), ("", score.alone_T)):
            start, tokens = encoder.encode(before), encoder.encode_text(reply)
            ids = np.zeros((1, 80), np.int32)
            ids[0, : len(start + tokens)] = start + tokens
            assert len(actual_T) == len(tokens)
            for place in (0, 1, len(tokens) - 1):
                length = np.array([len(start) + place])
                logits = jaxdepth.exit_logits(model, ids, length, 30)[0]
                expected = float(jax.nn.log_softmax(logits)[tokens[place]])
                assert actual_T[place] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_batches_and_order_change_nothing(reference):
    texts = [*REPLIES, "", "Yes.", "<|im_end|> is not a control token here"]
    prompts = [*PROMPTS, *PROMPTS, ""]
    some, others = (score_replies(reference, texts, prompts, batch_size=n) for n in (32, 2))
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one.alone_T, other.alone_T, atol=1e-3)
        np.testing.assert_allclose(one.given_T, other.given_T, atol=1e-3)
    assert len(some[2].given_T) == 0
    short = score_replies(reference, REPLIES[:1], PROMPTS[:1], max_tokens=5)[0]
    np.testing.assert_allclose(short.given_T, some[0].given_T[:5], atol=1e-3)
    with pytest.raises(InputError, match="batch_size is 0"):
        score_alone(reference, texts, batch_size=0)


def test_a_prompt_that_fills_the_context_leaves_no_score(tiny_path):
    model, tokenizer = jaxdepth.load(tiny_path)
    tiny = Reference(model, PromptEncoder(tokenizer))
    room = model.config.max_position_embeddings
    prompts = ["hi " * (room + 5), "hi"]
    full, short = score_replies(tiny, ["well well well"] * 2, prompts)
    assert len(full.given_T) == 0 < len(short.given_T)
    assert len(full.alone_T) == len(short.alone_T) > 0
    assert np.isnan(topicality([full])[0])


def test_a_reply_is_scored_once_for_each_prompt(reference, monkeypatch):
    rows = []

    def counted(model, prefixes, continuations, prefix_of, batch_size):
        rows.append((len(prefixes), len(continuations)))
        return scored(model, prefixes, continuations, prefix_of, batch_size)

    scored = module.continuation_logprobs
    monkeypatch.setattr(module, "continuation_logprobs", counted)
    scores = score_replies(reference, [REPLIES[0]] * 3, [PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    assert rows == [(1, 1), (2, 2)]  # after the empty message, and after two prompts
    assert scores[0].given_T is scores[2].given_T
    assert scores[0].alone_T is scores[1].alone_T


def test_a_reply_is_to_the_point_of_its_own_prompt_only(reference):
    own = topicality(score_replies(reference, REPLIES, PROMPTS))
    other = topicality(score_replies(reference, REPLIES, PROMPTS[::-1]))
    assert min(own) > 0.5 > max(other)
    assert np.isnan(topicality(score_alone(reference, REPLIES))).all()  # no prompt, no topic


def test_a_sentence_encoder_takes_the_place_of_information(reference):
    class Sentences:
        def cosine(self, prompts, texts):
            return np.array([0.9, 0.1])

    scores = score_replies(reference._replace(sentences=Sentences()), REPLIES, PROMPTS)
    assert [features(score)[0] for score in scores] == [0.9, 0.1]
    high, low = topicality(scores)
    assert high > 0.5 > low
