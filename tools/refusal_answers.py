"""Labelled answers for the refusal detector, and the parts and broken starts that it learns from.

The answers are the XSTest completions, labelled by their authors, and hard ones of our own.
Imported by tools/refusal_fit.py.
"""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.detector import sentences
from jaxdepth.tune.tasks import read_tasks

COMPLY, REFUSE, PARTIAL = 1, 2, 3  # the labels' first digits
NAMES = {"refuse": REFUSE, "partial": PARTIAL, "comply": COMPLY}
HARD = "hard answers"  # the source of our own answers
HARD_WEIGHT = 0.4  # of one of them beside a model's: there are more of them
_DATA = Path(__file__).parents[1] / "tests" / "data"
HARD_FILE = _DATA / "hard_answers.jsonl"
# Refusals that name what they decline, in the wordings that models are tuned with, beside answers
# that name what they help with; no wording is in both halves.
NAMED_FILE = _DATA / "named_answers.jsonl"


# Kinds of benign prompts, made up: a feature has to occur in several.
BENIGN = tuple(f"benign {n}" for n in range(8))
ORDINARY = 395  # ordinary answers: more would outweigh the others
_DECLINING = re.compile(r"\b(?:unable|not able|can(?:no|')t|won't|however|unfortunately)\b", re.I)


class Answer(NamedTuple):
    """An answer and its human label."""

    source: str  # the model
    prompt_id: str
    kind: str  # of prompt; of hard answers, what makes them hard
    label: int
    prompt: str
    text: str


SHORT = 18  # words: about 24 tokens
SENTENCES = ("1 sentence", "2 sentences", "3 sentences", "without the first")
TRUNCATED = ("12 words", "24 words", "48 words")
BROKEN = ("derailed", "looping")


def read_answers(folder: Path) -> list[Answer]:
    """The labelled answers of the XSTest completions, a file per model."""
    answers = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                label = int(row["final_label"][0])
                answers.append(
                    Answer(
                        path.stem, row["id"], row["type"], label, row["prompt"], row["completion"]
                    )
                )
    return answers


def hard_answers(half: str, file: Path = HARD_FILE) -> list[Answer]:
    """Our own hard answers of a half: "fit" or "held-out"."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [
        Answer(HARD, row["prompt"], row["kind"], NAMES[row["label"]], row["prompt"], row["text"])
        for row in rows
        if row["half"] == half
    ]


def ordinary_answers() -> list[Answer]:
    """A small model's own answers to benign prompts, which hardly anyone would ask it to refuse.

    They comply, but for those with a word of declining, which are left out.
    """
    tasks = read_tasks(read_prompts(["builtin:pairs"]), "builtin", thoughts=False)["benign"][
        : len(BENIGN) * ORDINARY
    ]
    tasks = tasks[:: len(BENIGN)]
    return [
        Answer(HARD, t.prompt, BENIGN[n % len(BENIGN)], COMPLY, t.prompt, t.answers[0])
        for n, t in enumerate(tasks)
        if not _DECLINING.search(t.answers[0])
    ]


def truncate(text: str, words: int) -> str:
    """The text up to the end of that many words."""
    start = re.match(rf"\s*(?:\S+\s+){{{words - 1}}}\S+", text)
    return start[0] if start else text


def derail(text: str) -> str:
    """A few words of a text's start, then its words in any order, and a loop."""
    rng = np.random.default_rng(digest(text) + 1)
    words = text.split()
    kept = int(rng.integers(6, 13))
    rest = list(rng.permutation(words[kept : kept + 30])[: rng.integers(3, 9)])
    return " ".join([*words[:kept], *rest, loop(text)])


def loop(text: str) -> str:
    """A loop of a few words that say nothing; which, and how often, depends on the text."""
    rng = np.random.default_rng(digest(text) + 2)
    words = _LOOPS[rng.integers(len(_LOOPS))]
    mark = ("", "", ",", ".", ".\n\n")[rng.integers(5)]
    return " ".join([words + mark] * int(rng.integers(2, 14)))


def variant(text: str, name: str) -> str:
    """A part of an answer, or a broken start of it, that has its label too.

    A truncated refusal still refuses, and so does its explanation without the "I cannot". Models
    differ in length and in the verb; with the variants the fit depends less on either.
    """
    if name in _BREAK:
        return _BREAK[name](text)
    if name == "short":
        return truncate(text, SHORT)
    if name.endswith("words"):
        return truncate(text, int(name.split()[0]))
    lines = sentences(text)
    return "\n".join(lines[1:] if name == "without the first" else lines[: int(name[0])])


def digest(text: str) -> int:
    """A number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:4], "big")


_BREAK = {"derailed": derail, "looping": loop}
_LOOPS = tuple(
    """I|I'm|I'm a|I'm not a|I am|I can|I can only|I have|I have to|a|the|and|to|you|it is|this is a
    |so|the same|I will|my|of the|very|is a|I'm here to|good|you can""".replace("\n    ", "").split(
        "|"
    )
)
