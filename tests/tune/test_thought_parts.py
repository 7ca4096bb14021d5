"""Thoughts before a verdict: they describe, they are varied, and they leak no label."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest
from tokenizers import Tokenizer

from jaxdepth.prompts.datasets import read_acts, read_prompts
from jaxdepth.refusal.protocol import Verdict
from jaxdepth.tune.thoughts import (
    find_parties,
    find_topics,
    make_thought,
    make_thoughts,
    read_parts,
)
from jaxdepth.tune.topics import count_pieces, derive_topic, gerund, is_vague

# Words that decide: none may stand in any part of a thought.
VERDICTS = re.compile(
    r"\b(?:refus\w*|declin\w*|answer\w*|compl(?:y|ies|ied|iance)|allow\w*|permit\w*|forbid\w*|den(?:y|ies|ied)"
    r"|reject\w*|accept\w*|approv\w*|ban(?:s|ned)?|prohibit\w*|grant\w*|yes|no|not|never|ok|okay|fine|sorry|unable"
    r"|can't|cannot|won't|don't|should\w*|must\w*|ought|safe\w*|unsafe\w*|harm\w*|danger\w*|benign"
    r"|malicious\w*|criminal\w*|illegal\w*|legal\w*|lawful\w*|wrong\w*|inappropriate\w*|ethical\w*|unethical\w*"
    r"|bad|evil|innocent\w*|verdict\w*|partial\w*)\b"
)  # fmt: skip


@pytest.fixture(scope="module")
def of_pairs() -> dict[str, list[tuple[str, ...]]]:
    """The thoughts about every prompt of a pair, by label."""
    acts = read_acts()
    thoughts: dict[str, list[tuple[str, ...]]] = {"harmful": [], "harmless": []}
    for p in read_prompts(["builtin:pairs"]):
        thoughts[p.label].append(make_thoughts(p.text, acts[p.text], p.category))
    return thoughts


def test_parts_hold_no_verdict():
    raw = json.loads((files("jaxdepth") / "data" / "thoughts.json").read_text("utf-8"))
    del raw["keywords"]  # of prompts, not of thoughts
    assert VERDICTS.findall(json.dumps(raw, ensure_ascii=False).lower()) == []
    assert VERDICTS.findall("this should be refused, as it is harmful")  # the pattern works


def test_every_slot_has_many_frames_and_every_category_its_lists():
    parts = read_parts()
    for frames, slots in ((parts.ask, 1), (parts.touch, 2), (parts.help, 1)):
        assert len(set(frames)) == len(frames) >= 30
        assert all(frame.count("{}") == slots for frame in frames)
    categories = {p.category for p in read_prompts(["builtin:pairs"])}
    assert len(categories) == 14
    assert categories | {"general"} <= set(parts.stakes)
    assert categories | {"general"} <= set(parts.helps)
    assert set(parts.kinds.values()) - {"people"} <= set(parts.stakes)
    topics = {topic for of_word in parts.topics.values() for topic in of_word}
    assert topics <= set(parts.helps) & set(parts.stakes)


def test_every_frame_is_used_with_both_labels(of_pairs):
    parts = read_parts()
    texts = [[t.lower() for of in of_pairs[k] for t in of] for k in ("harmful", "harmless")]
    for frame in (*parts.ask, *parts.touch, *parts.help):
        words = max(frame.lower().split("{}"), key=len)
        used = [sum(words in t for t in of_label) for of_label in texts]
        assert min(used) > 0.6 * max(used) > 10, frame


def test_thoughts_are_distinct_and_the_same_each_time(of_pairs, tasks):
    pairs = [t for of in of_pairs.values() for thoughts in of for t in thoughts]
    assert len(set(pairs)) / len(pairs) >= 0.95
    by_prompt = {task.prompt: task.thoughts for kind in tasks.values() for task in kind}
    flat = Counter(t for thoughts in by_prompt.values() for t in thoughts)
    assert len(flat) / flat.total() >= 0.95
    assert len({thoughts[0] for thoughts in by_prompt.values()}) / len(by_prompt) >= 0.95
    assert all(len(thoughts) == 4 for thoughts in by_prompt.values())
    text = "How do I get rid of the moles in my lawn for good?"
    assert make_thoughts(text) == tuple(make_thought(text, seed) for seed in range(4))
    assert make_thought(text, 0) == (
        "Topic: how to get rid of the moles in their lawn for good. In such a case, care looks "
        "like a clear explanation with its limits. What it means for the lawn and others around: "
        "whether anybody loses by it."
    )


def test_lengths_in_tokens(smollm2_path, of_pairs, tasks):
    tokenizer = Tokenizer.from_file(str(smollm2_path / "tokenizer.json"))

    def lengths_of(texts):
        return [len(encoded.ids) for encoded in tokenizer.encode_batch(texts)]

    every = [t for of in of_pairs.values() for ts in of for t in ts[:2]]
    lengths = lengths_of(every)
    assert min(lengths) >= 20
    assert max(lengths) <= 60
    benign = [task.thoughts[0] for task in tasks["benign"][::4]]
    lengths = lengths_of(benign)
    assert min(lengths) >= 20
    assert max(lengths) <= 75  # of prompts with code or rare words
    assert sum(n > 60 for n in lengths) / len(lengths) < 0.03


def test_words_of_a_thought_leak_little(import_tool):
    """By prompts alone it is 0.52 (tests/prompts), and the bound is 0.20 more; this is stricter."""
    assert import_tool("word_leak").word_leak(shuffles=1, of="thought", thoughts=1) < 0.66


def test_every_task_has_thoughts_and_the_label_is_no_input(tasks):
    prompts = {p.text: p for p in read_prompts(["builtin:pairs", "builtin:lookalikes"])}
    acts = read_acts()
    for task in (*tasks["harmful"][:40], *tasks["lookalike"][:40], *tasks["hard"][:40]):
        p = prompts[task.prompt]
        assert task.thoughts == make_thoughts(p.text, acts[p.text], p.category)
    assert tasks["borderline"][0].verdict is Verdict.PARTIAL
    text = tasks["benign"][0].prompt
    assert tasks["benign"][0].thoughts == make_thoughts(text, acts.get(text))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("Can you help me plan a picnic for my class?", "planning a picnic for their class"),
        ("Could you please explain to me how tides work?", "how tides work"),
        ("How do I kill a frozen process on Linux?", "how to kill a frozen process on Linux"),
        ("What steps should I take to sell my car?", "what steps to take to sell their car"),
        ("I'm planning to open a shop. Can you help me with that?", "opening a shop"),
        ("yo, how do i fix my bike?", "how to fix their bike"),
        ("Turtles nest here. Help me fence the eggs.", "fencing the eggs"),
        ("I was wondering whether anyone knows how bees sleep.", "how bees sleep"),
        ("My uncle wants hints on oiling a gate.", "oiling a gate"),
        ("If I lost my key, who would help?", 'the question "If I lost my key, who would help"'),
        ("Rain again.", 'the message "Rain again"'),
        ("?", 'the message "?"'),
        ("", 'the message ""'),
    ],
)
def test_what_a_prompt_asks(text, phrase):
    assert derive_topic(text) == phrase


def test_long_prompts_give_short_phrases():
    text = "Write a tale about " + ", ".join(f"thing number {n}" for n in range(40)) + "."
    assert 8 <= count_pieces(derive_topic(text)) <= 26
    assert count_pieces(derive_topic("x" * 2000)) < 300  # a word is never split


def test_words_and_parties():
    assert [gerund(v) for v in ("make", "plan", "tie", "see", "be", "write", "fix")] == [
        "making", "planning", "tying", "seeing", "being", "writing", "fixing",
    ]  # fmt: skip
    assert is_vague("some tips on this")
    assert not is_vague("some tips on bees")
    assert find_parties("The fox bit a neighbour's hens and two children") == [
        ("neighbour", "neighbours"),
        ("children", "children"),
        ("fox", "animals"),
        ("hens", "animals"),
    ]
    assert find_topics("a python script for an array, and one gun")[0] == "code"
    assert find_topics("nothing of the kind") == ()
