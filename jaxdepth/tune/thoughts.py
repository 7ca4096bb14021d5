"""Thoughts before a verdict: what is asked, whom it touches and how, what help would be.

A thought describes and does not decide. It is made of hand-written parts by the words of the prompt
alone: whether the prompt is to be refused is no input, and every part serves both kinds of prompts.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from jaxdepth.tune.topics import MAX_PIECES, count_pieces, derive_topic, is_vague

_LEAST, _MOST = 24, 53  # of the pieces of a thought, for 20 to 60 tokens
_OTHERS = ("animals", "plants")  # kinds of parties; all other kinds are of people
_TRIES = 12  # other choices of parts, for a thought of that length
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0))
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


@dataclass(frozen=True)
class Parts:
    """Hand-written parts of thoughts; every list serves every prompt."""

    ask: tuple[str, ...]  # frames for what is asked
    touch: tuple[str, ...]  # frames for whom it touches, and how
    help: tuple[str, ...]  # frames for what help would be
    nearby: tuple[str, ...]  # whom it touches, where the prompt names nobody
    stakes: dict[str, tuple[str, ...]]  # by topic; `general` fits all
    helps: dict[str, tuple[str, ...]]  # likewise
    kinds: dict[str, str]  # nouns for people, animals and plants
    topics: dict[str, tuple[str, ...]]  # of words


@cache
def read_parts() -> Parts:
    """The built-in parts."""
    raw = json.loads((files("jaxdepth") / "data" / "thoughts.json").read_text("utf-8"))
    kinds: dict[str, str] = {}
    for kind, nouns in raw["parties"].items():
        for noun in nouns.split():
            kinds |= {noun: kind, plural(noun): kind}
    topics: dict[str, tuple[str, ...]] = {}
    for topic, words in raw["keywords"].items():
        for word in words.split():
            topics[word] = (*topics.get(word, ()), topic)
    frames = raw["frames"]
    return Parts(
        ask=tuple(frames["ask"]),
        touch=tuple(frames["touch"]),
        help=tuple(frames["help"]),
        nearby=tuple(raw["nearby"]),
        stakes={topic: tuple(items) for topic, items in raw["stakes"].items()},
        helps={topic: tuple(items) for topic, items in raw["helps"].items()},
        kinds=kinds | raw["irregular"],
        topics=topics,
    )


def make_thoughts(
    text: str, act: str | None = None, category: str | None = None, count: int = 4
) -> tuple[str, ...]:
    """Different thoughts about a prompt: those of the seeds 0, 1, ... that are not equal."""
    about = _read_prompt(text, act, category)
    return tuple(dict.fromkeys(_compose(text, seed, about) for seed in range(count)))


def make_thought(text: str, seed: int, act: str | None = None, category: str | None = None) -> str:
    """One thought about a prompt, the same for the same arguments.

    Args:
        text: the prompt.
        seed: another seed gives other parts.
        act: what the prompt asks, as a phrase in -ing, if somebody wrote one: half of the thoughts
            use it, the others the words of the prompt.
        category: the topic, if known. Whether the prompt has a word of it gives the share of the
            thoughts that speak of it.
    """
    return _compose(text, seed, _read_prompt(text, act, category))


def find_parties(text: str) -> list[tuple[str, str]]:
    """People, animals and plants that a text names, with their kind; people come first."""
    kinds = read_parts().kinds
    found = dict.fromkeys(word for word in _WORD.findall(text.lower()) if word in kinds)
    return sorted(((word, kinds[word]) for word in found), key=lambda party: _rank(party[1]))


def _rank(kind: str) -> int:
    return 1 + _OTHERS.index(kind) if kind in _OTHERS else 0


def find_topics(text: str) -> tuple[str, ...]:
    """The topics that words of a text speak of, those of most words first."""
    topics = read_parts().topics
    counts = Counter(t for word in _WORD.findall(text.lower()) for t in topics.get(word, ()))
    return tuple(topic for topic, _ in counts.most_common())


def plural(noun: str) -> str:
    """The plural of an English noun that has a regular one."""
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


class _Prompt(NamedTuple):
    """What a thought needs to know of a prompt."""

    asked: tuple[str, ...]  # phrases for what is asked
    parties: list[tuple[str, str]]
    lists: tuple[str, ...]  # topics, to choose from


def _read_prompt(text: str, act: str | None, category: str | None) -> _Prompt:
    topics = find_topics(text)
    fitting: tuple[str, ...]
    if category is not None and category in read_parts().stakes:
        fitting = (category,) * 4 + ("general",) if category in topics else (category, "general")
    else:
        fitting = (*topics[:1] * 4, "general")
    return _Prompt(_asked(text, act), find_parties(text), fitting)


def _asked(text: str, act: str | None) -> tuple[str, ...]:
    """Phrases for what is asked, to choose from.

    A written phrase is clearer than the prompt's own words, and tells harmful from harmless prompts
    better: alone it would leak.
    """
    phrase = derive_topic(text)
    if act is None:
        return (phrase,)
    is_whole = count_pieces(phrase) < MAX_PIECES and not is_vague(phrase)
    return (phrase, act) if is_whole else (act,)


class _Choices:
    """Choices that depend on a text alone, on every platform."""

    def __init__(self, key: str):
        self._left = int.from_bytes(hashlib.sha256(key.encode()).digest())

    def of(self, items: Sequence):
        self._left, place = divmod(self._left, len(items))
        return items[place]


def _compose(text: str, seed: int, prompt: _Prompt) -> str:
    """A thought of parts that the seed chooses: the first of the right length, or the nearest."""
    tried = []
    for attempt in range(_TRIES):
        choose = _Choices(f"{seed}|{attempt}|{text}")
        slots = _slots(prompt, choose)
        pieces = sum(_pieces(frame) + sum(map(count_pieces, words)) for frame, *words in slots)
        tried.append((max(_LEAST - pieces, pieces - _MOST, 0), attempt, slots, choose))
        if tried[-1][0] == 0:
            break
    _, _, slots, choose = min(tried, key=lambda one: one[:2])
    sentences = [frame.format(*words) for frame, *words in slots]
    return " ".join(sentences[n][:1].upper() + sentences[n][1:] for n in choose.of(_ORDERS))


def _slots(prompt: _Prompt, choose: _Choices) -> list[tuple[str, ...]]:
    """A frame with its words for each slot."""
    parts = read_parts()
    who, kind = _who(prompt.parties, choose)
    stakes = parts.stakes[choose.of(prompt.lists)]
    if kind in parts.stakes:
        stakes = choose.of((parts.stakes[kind], stakes))
    return [
        (choose.of(parts.ask), choose.of(prompt.asked)),
        (choose.of(parts.touch), who, choose.of(stakes)),
        (choose.of(parts.help), choose.of(parts.helps[choose.of(prompt.lists)])),
    ]


def _who(parties: Sequence[tuple[str, str]], choose: _Choices) -> tuple[str, str]:
    """Whom it touches, and of which kind these are."""
    if not parties:
        return choose.of(read_parts().nearby), "people"
    alike = [party for party in parties if _rank(party[1]) == _rank(parties[0][1])][:3]
    word, kind = choose.of(alike)
    first = f"the {word}"
    if len(alike) > 1 and choose.of((True, False)):
        return f"{first} and the {alike[(alike.index((word, kind)) + 1) % len(alike)][0]}", kind
    return choose.of((first, f"{first} and the one who asks", f"{first} and others around")), kind


@cache
def _pieces(frame: str) -> int:
    return count_pieces(frame.replace("{}", ""))
