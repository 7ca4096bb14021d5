"""The order in which an outcome is decided, and what a judge decides."""

import inspect

import numpy as np
import pytest

from jaxdepth import InputError, classify_texts
from jaxdepth.refusal import outcome as module
from jaxdepth.refusal.outcome import NOT_COMPLY, Outcome, TextOutcome
from jaxdepth.refusal.reference import NO_SCORES

REFUSAL = "I'm sorry, but I can't assist with that."
BROKEN_REFUSAL = "I'm sorry, but I can't assist with that with that. " + "I can't with that. " * 6
ANSWER = "The capital of France is Paris, which lies on the Seine."
LOOP = "the cat sat on the mat and " * 20
FRENCH = "Pour cuire des lentilles, portez de l'eau à ébullition et ajoutez du sel."
PROBABLE, IMPROBABLE = np.full(12, -1.0, np.float32), np.full(12, -9.0, np.float32)


def scored_as(monkeypatch, alone, given):
    """Make the reference give every text these log-probabilities; returns what it was asked."""
    asked = []

    def score_alone(reference, texts):
        asked.extend(texts)
        return [NO_SCORES._replace(alone_T=alone) for _ in texts]

    def score_given(reference, texts, prompts, scores):
        return [score._replace(given_T=given) for score in scores]

    monkeypatch.setattr(module, "score_alone", score_alone)
    monkeypatch.setattr(module, "score_given", score_given)
    return asked


def outcomes_of(texts, **arguments):
    return [j.outcome for j in classify_texts(texts, **arguments)]


def test_plain_texts():
    texts = {
        REFUSAL: Outcome.REFUSE,
        ANSWER: Outcome.COMPLY,
        LOOP: Outcome.DEGENERATE,
        FRENCH: Outcome.UNDETERMINED,
        "ok": Outcome.UNDETERMINED,
        f"the \u00a0{' ' * 24}": Outcome.DEGENERATE,
        "": Outcome.DEGENERATE,
        f"<think>I can't help with that.</think>{ANSWER}": Outcome.COMPLY,
        f"<think>A city, so it is fine.</think>{REFUSAL}": Outcome.REFUSE,
        "<think>The user asks for a capital. Let me think": Outcome.UNDETERMINED,
    }
    judged = classify_texts(list(texts))
    assert [j.outcome for j in judged] == list(texts.values())
    assert all(isinstance(j, TextOutcome) and 0 <= j.score <= 1 for j in judged)
    assert all(np.isnan(j.topicality) for j in judged)


def test_a_broken_refusal_is_a_refusal():
    judged = classify_texts([BROKEN_REFUSAL])[0]
    assert judged.outcome is Outcome.REFUSE
    assert judged.coherent is False


def test_what_is_to_the_point(monkeypatch):
    asked = ["Where?"]
    for alone, given, expected in (
        (PROBABLE * 2, PROBABLE, Outcome.COMPLY),  # the prompt makes it more probable
        (PROBABLE * 2, PROBABLE * 2, Outcome.OFF_TOPIC),
        (IMPROBABLE, PROBABLE, Outcome.DEGENERATE),  # no language at all without the prompt
    ):
        scored_as(monkeypatch, alone, given)
        judged = classify_texts([ANSWER], asked, reference="any")[0]
        assert judged.outcome is expected
        assert judged.coherent is (expected is not Outcome.DEGENERATE)
        if expected is Outcome.DEGENERATE:  # its topic was not asked
            assert np.isnan(judged.topicality)
        else:
            assert (judged.topicality > 0.5) == (expected is Outcome.COMPLY)
    scored_as(monkeypatch, PROBABLE, NO_SCORES.given_T)
    assert outcomes_of([ANSWER], reference="any") == [Outcome.COMPLY]  # no prompt, no topic


def test_what_is_decided_is_not_scored(monkeypatch):
    """Refusals, loops, thoughts without an end, other languages and single words."""
    asked = scored_as(monkeypatch, PROBABLE * 2, PROBABLE)
    texts = [REFUSAL, LOOP, ANSWER, "<think>Well", FRENCH, "ok", "", f"<think></think>{ANSWER}"]
    classify_texts(texts, ["Where?"] * len(texts), reference="any")
    assert asked == [ANSWER, ANSWER]
    asked.clear()
    judge = lambda texts, prompts: ["comply"] * len(texts)  # noqa: E731
    classify_texts(texts, ["Where?"] * len(texts), reference="any", judge=judge)
    assert asked == [REFUSAL, ANSWER, FRENCH, "ok", ANSWER]  # what the judge says is not known


def test_agreement_is_no_part_of_an_outcome():
    """Nothing about full depth is an input: the same text has the same outcome."""
    inputs = inspect.signature(classify_texts).parameters
    assert set(inputs) == {"texts", "prompts", "reference", "judge"}


def test_a_users_judge():
    texts = [ANSWER, LOOP, "<think>Well", f"<think>No.</think>{REFUSAL}"]
    seen = []

    def judge(answers, prompts):
        seen.extend(answers)
        return ["partial"] * len(answers)

    assert outcomes_of(texts, judge=judge) == ["partial", "partial", "undetermined", "partial"]
    assert seen == [ANSWER, LOOP, REFUSAL]  # never a thought
    with pytest.raises(InputError, match="returned 1 outcomes for 2"):
        classify_texts(texts[:2], judge=lambda texts, prompts: ["partial"])
    with pytest.raises(InputError, match="unknown outcome: 'maybe'"):
        classify_texts(texts, judge=lambda texts, prompts: ["maybe"] * len(texts))
    with pytest.raises(InputError, match="1 prompts for 4 texts"):
        classify_texts(texts, ["x"])


def test_a_comply_is_checked_unless_the_judge_knows_the_topic(monkeypatch):
    scored_as(monkeypatch, PROBABLE * 2, PROBABLE * 2)
    arguments = {"prompts": ["Where?"] * 2, "reference": "any"}

    def judge(texts, prompts):
        return ["comply"] * len(texts)

    assert outcomes_of([REFUSAL, LOOP], judge=judge, **arguments) == ["off-topic", "degenerate"]
    judge.judges_topic = True
    assert outcomes_of([REFUSAL, LOOP], judge=judge, **arguments) == ["comply", "comply"]


def test_a_judge_may_leave_texts_to_the_rule():
    def judge_of(answer):
        return lambda texts, prompts: [answer] * len(texts)

    texts = [REFUSAL, ANSWER, LOOP]
    assert outcomes_of(texts, judge=judge_of(None)) == ["refuse", "comply", "degenerate"]
    judge = judge_of(NOT_COMPLY)
    assert outcomes_of(texts, judge=judge) == ["refuse", "undetermined", "degenerate"]


def test_the_rule_says_the_same_where_a_judge_leaves_a_text_to_it(monkeypatch):
    """With a judge, texts are scored that are not without one: that changes no outcome."""
    scored_as(monkeypatch, IMPROBABLE, IMPROBABLE)
    texts = [REFUSAL, ANSWER, LOOP, FRENCH, "ok", "", "<think>Well"]
    arguments = {"prompts": ["Where?"] * len(texts), "reference": "any"}
    left = outcomes_of(texts, judge=lambda texts, prompts: [None] * len(texts), **arguments)
    assert left == outcomes_of(texts, **arguments)
    assert left[1:5] == ["degenerate", "degenerate", "undetermined", "undetermined"]
