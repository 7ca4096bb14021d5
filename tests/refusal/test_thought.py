"""What a reply says after its thought."""

import pytest

from jaxdepth.refusal.thought import answer_after_thought, is_thought_marker, opens_thought

ENDED = (
    "<think>I cannot help with that? It is a padlock.</think>Lift each pin.",
    "<think>\n\n</think>\n\nLift each pin.",
    "Hmm, is it harmful?\n</think>\n\nLift each pin.",  # the template opened it
    "<thinking>Is it mine?</thinking>\nLift each pin.",
    "<reasoning depth='2'>Mine.</reasoning> Lift each pin.",
    "Well.\n<thought>Mine?</thought>\nLift each pin.",
    "<think>One.</think><think>Two.</think>Lift each pin.",
    "[THINK]Is it mine?[/THINK]Lift each pin.",
    "<|START_THINKING|>Mine.<|END_THINKING|><|START_RESPONSE|>Lift each pin.<|END_RESPONSE|>",
    "<|begin_of_thought|>Mine.<|end_of_thought|>\n<|begin_of_solution|>Lift each pin."
    "<|end_of_solution|>",
    "◁think▷Mine?◁/think▷Lift each pin.",
    "<think>Mine.</think><answer>Lift each pin.</answer>",
    "<|channel|>analysis<|message|>Mine?<|end|><|start|>assistant<|channel|>final<|message|>"
    "Lift each pin.<|return|>",
    'analysisThe user says "lock".assistantfinalLift each pin.',
)
UNENDED = (
    "<think>\nOkay, so the user wants to know how locks work. Let me think about",
    "  <thinking>I cannot help with",
    "<think>One.</think>\n<think>Two, and then",
    "<|channel|>analysis<|message|>We need to decide whether",
    "analysisThe user asks for a lock. I cannot",
    "[THINK]First,",
)
PLAIN = (
    "Lift each pin.",
    "Put `</think>` behind the thought.",
    "```xml\n<thought>\nhello\n</thought>\n```\nis one way to write it.",
    "In HTML a <think> tag means nothing.",
    "The analysis of the lock comes first.",
    "",
)


@pytest.mark.parametrize("text", ENDED)
def test_only_what_follows_counts(text):
    assert answer_after_thought(text) == "Lift each pin."


@pytest.mark.parametrize("text", UNENDED)
def test_a_thought_that_does_not_end_leaves_no_answer(text):
    assert answer_after_thought(text) is None


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_as_they_are(text):
    assert answer_after_thought(text) == text


def test_a_template_may_open_the_thought():
    assert opens_thought("<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert not opens_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_thought("<|im_start|>assistant\n")
    assert not opens_thought("")


def test_markers_that_are_control_tokens_are_known():
    assert all(map(is_thought_marker, ("<think>", "[/THINK]", "<|channel|>", "<|END_THINKING|>")))
    assert not any(map(is_thought_marker, ("<s>", "<|im_end|>", "think", "[INST]")))
