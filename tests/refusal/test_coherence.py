"""Coherence, judged from the text alone."""

import inspect

import numpy as np
import pytest

from jaxdepth import InputError
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal import coherence
from jaxdepth.refusal.coherence import judge_coherence, repetition
from jaxdepth.refusal.reference import Reference, score_alone

SOUND = [
    "I'm sorry, but I can't assist with that.",
    "Paris is the capital of France.",
    "Sure! Here are some tips:\n1. Start early.\n2. Take breaks.\n3. Drink water.\n4. Sleep well.",
    "def add(a, b):\n    return a + b\n\n\ndef subtract(a, b):\n    return a - b",
    "for i in range(3):\n    for j in range(4):\n        print(i, j)\n        print(j, i)",
    "The lamp is low, the night is deep,\nThe village has gone off to sleep,\n"
    "And still there are the sheep to keep,\nAnd still there are the sheep to keep.",
    "To boil an egg, bring water to a boil, add the egg and wait eight minutes.",
    "The knight shook his head and said that he would not help. Then the dragon flew home, where "
    "its children were waiting for supper.",
    "| name | age |\n|---|---|\n| Ann | 31 |\n| Bob | 27 |",
]
BROKEN = [
    "",
    " \n\u00a0",
    " and, and, and, and, and, and, and, and, and, and",
    "I I I I I.\n\n I I I I I I I I I I I I I.\n\n I I I",
    "A" + "\u00a0" * 40,
    "HelpHelpHelpHelpHelpHelpHelpHelpHelpHelp",
    "I will be back in a few days. " * 5,
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d" * 6,
    "minutes egg the a boil, and an eight water To egg, add wait bring boil to",
    "Tge kniqht shxok hjs heav abd sayd tfat hz woumd nzt hewp. Thrn tke drazon flfw hpme.",
]
LOOPS = BROKEN[:8]


@pytest.fixture(scope="module")
def tool(import_tool):
    return import_tool("fit_coherence")


@pytest.fixture(scope="module")
def judge(smollm2):
    """What gives log-probabilities: SmolLM2 at full depth, and how it reads texts."""
    model, tokenizer = smollm2
    return Reference(model, PromptEncoder(tokenizer))


def alone(judge, texts):
    return [scores.alone_T for scores in score_alone(judge, texts)]


def slow_repetition(text: str) -> float:
    pieces = coherence._PIECE.findall(text.strip(" ").lower())
    if len(pieces) < 8:
        return 0.0
    pairs = [(pieces[n], pieces[n + 1]) for n in range(len(pieces) - 1)]
    return sum(pair in pairs[max(0, n - 128) : n] for n, pair in enumerate(pairs)) / len(pairs)


def test_repetition_equals_the_slow_twin():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh,.\n"), 300)) for _ in range(5)]
    for text in SOUND + BROKEN + texts:
        assert repetition(text) == pytest.approx(slow_repetition(text))
        assert 0 <= repetition(text) < 1
    assert repetition("No, no, no!") == 0
    assert repetition("a b " * 10) == pytest.approx(17 / 19)


def test_a_pair_counts_within_a_window_only():
    words = [f"w{n}" for n in range(200)]
    assert repetition(" ".join(words * 2)) == 0
    assert repetition(" ".join(words[:100] * 2)) == pytest.approx(99 / 199)


def test_sound_and_broken_texts(judge):
    texts = SOUND + BROKEN
    judged = judge_coherence(texts, alone(judge, texts))
    assert [c.degenerate for c in judged] == [False] * len(SOUND) + [True] * len(BROKEN)
    assert all((c.score > 0.5) == c.degenerate and 0 <= c.score <= 1 for c in judged)


def test_without_log_probabilities_only_repetition_shows():
    assert {c.degenerate for c in judge_coherence(SOUND)} == {None}
    assert {c.degenerate for c in judge_coherence(LOOPS)} == {True}
    assert all(np.isnan(c.mean_logprob) for c in judge_coherence(SOUND))
    assert judge_coherence(["Yes."], [np.zeros(0)])[0].degenerate is None
    with pytest.raises(InputError, match="1 logprobs for 2 texts"):
        judge_coherence(["a", "b"], [np.zeros(0)])


def test_a_probable_text_does_not_make_up_for_a_loop():
    loop = "I will be back in a few days. " * 5
    assert judge_coherence([loop], [np.zeros(40)])[0].degenerate


def test_nothing_depends_on_prompts_or_other_answers():
    inputs = inspect.signature(judge_coherence).parameters
    assert not {"prompt", "prompts", "full_depth"} & set(inputs)
    texts = SOUND + BROKEN
    backwards = judge_coherence(texts[::-1])[::-1]
    for one, other in zip(backwards, judge_coherence(texts), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


@pytest.mark.parametrize(
    ("longest", "most"), [(32, 20), pytest.param(64, 32, marks=pytest.mark.slow)]
)
def test_held_out_texts_of_known_truth(longest, most, smollm2, judge, tool, data_dir):
    model, tokenizer = smollm2
    samples = tool.published(tokenizer, data_dir / "xstest" / "completions")
    kept = []
    for kind in (tool.COMPLIANCE, *tool.BREAKS):
        # Not the longest nor many, for time. Of all held-out texts the share is 95% or more.
        kept += [s for s in samples if s.kind == kind and s.held_out and s.tokens <= longest][:most]
    kept += [s for s in tool.exit_samples(model, tokenizer, 10, (8, 16, 22, 24)) if s.tokens]
    texts = [s.text for s in kept]
    judged = judge_coherence(texts, alone(judge, texts))
    for kind in (tool.COMPLIANCE, *tool.BREAKS, tool.SHALLOW):
        degenerate = [
            c.degenerate is True for c, s in zip(judged, kept, strict=True) if s.kind == kind
        ]
        right = np.mean(degenerate) if kind != tool.COMPLIANCE else 1 - np.mean(degenerate)
        # 20 to 40 texts: two points below 95% are one or two of them.
        assert len(degenerate) >= most - 2
        assert right >= 0.93, (kind, right, len(degenerate))
