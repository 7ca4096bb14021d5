"""Exits in words: exact, whatever was swept."""

import re

import numpy as np
import pytest

from jaxdepth.study.wording import runs_of_exits


@pytest.mark.parametrize(
    ("exits", "chosen", "words"),
    [
        ([1, 2, 3, 8, 9], [1, 2, 8], "1-2, 8"),
        ([1, 2, 3, 8, 9], [], "none"),
        ([1, 2, 3, 8, 9], [1, 2, 3, 8, 9], "1-3, 8-9"),
        ([20, 28, 29, 30], [20, 28, 29, 30], "20, 28-30"),
        ([20, 24, 28, 29, 30], [20, 24, 28, 29, 30], "20-28 in steps of 4, 29-30"),
        ([16, 18, 20, 22], [16, 18, 20, 22], "16-22 in steps of 2"),
        ([16, 18, 20, 22], [16, 18, 22], "16, 18, 22"),
        ([16, 17, 18, 19, 20], [16, 18, 20], "16, 18, 20"),
        ([30], [30], "30"),
    ],
)
def test_runs_of_exits(exits, chosen, words):
    assert runs_of_exits(np.array(exits), np.isin(exits, chosen)) == words


def named(words: str) -> set[int]:
    """The exits that words name, read back."""
    exits: set[int] = set()
    for part in words.split(", ") if words != "none" else ():
        first, last, step = re.fullmatch(r"(\d+)(?:-(\d+))?(?: in steps of (\d+))?", part).groups()
        exits |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return exits


def test_the_words_name_the_chosen_exits_and_no_other():
    rng = np.random.default_rng(0)
    for _ in range(500):
        exits = np.flatnonzero(rng.random(33) < rng.random()) + 1
        is_chosen = rng.random(len(exits)) < rng.random()
        assert named(runs_of_exits(exits, is_chosen)) == set(exits[is_chosen])
