"""Exits in words: exact, whatever was swept; and what statistics say in sentences."""

import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.probes.summary import _change_finding, _span
from jaxdepth.study.verdicts.summary import _calibration_findings
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


class Scores:
    """A table of scores with one exit and these calibrations."""

    exits = (30,)

    def __init__(self, error, p, needed, n):
        bounds = {"calibration_error": error, "p_calibrated": (p,) * 3}
        self.estimates = bounds | {"n_to_show_calibration": (needed,) * 3}
        self.n = n

    def estimate(self, source, metric) -> Estimate:
        value, low, high = self.estimates.get(metric, (np.nan,) * 3)
        return Estimate(*(np.array([x]) for x in (value, low, high)), n=self.n)


def test_what_calibration_says():
    """With its interval, its test, and whether so many prompts could show a small error."""
    (few,) = _calibration_findings(Scores((0.03, 0.0, 0.2), 0.31, 842.0, 60))
    assert "is 3% [0%, 20%]; perfect calibration has p = 0.31 (one test)" in few
    assert "With 60 prompts an error below 5% cannot be shown; about 842 prompts would do" in few
    (many,) = _calibration_findings(Scores((0.03, 0.01, 0.04), 0.001, 842.0, 1000))
    assert "With 1000 prompts an error below 5% can be shown." in many
    assert not list(_calibration_findings(Scores((0.03, np.nan, np.nan), np.nan, 842.0, 6)))


def change(**columns) -> pd.Series:
    layers = {"onset": 8, "onset_low": 4, "onset_high": 12}
    layers |= {"midpoint": 13, "midpoint_low": 7, "midpoint_high": 15}
    rise = {"rise": 0.2, "rise_low": 0.1, "rise_high": 0.3, "p_rise_holm": 0.004, "tests": 9.0}
    return pd.Series({"curve": "content at last", "after": None} | layers | rise | columns)


def test_onsets_and_midpoints_are_named():
    assert _change_finding(change(kind="gradual")) == (
        "content at last rises gradually: onset at layer 8 [4, 12], midpoint at layer 13 [7, 15], "
        "by +0.20 [+0.10, +0.30] (p = 0.004, Holm over 9 curves)."
    )
    assert "jumps: onset at layer 8" in _change_finding(change(kind="jump"))
    nothing = _change_finding(change(kind="none", p_rise_holm=0.6))
    assert nothing == "content at last: no rise over depth (p = 0.6, Holm over 9 curves)."
    behind = _change_finding(change(curve="refusal", after="content at last", kind=None))
    assert behind == (
        "refusal rises after content at last: from onset to onset 8 [4, 12] layers, from midpoint "
        "to midpoint 13 [7, 15]."
    )


def test_layers_that_folds_chose_are_exact():
    assert _span([12, 15, 12, 13]) == "layers 12-13, 15"
    assert _span([12, 12]) == "layer 12"


def test_a_terminal_shows_that_there_is_no_interval(capsys):
    """Words in square brackets are markup to it, and vanish."""
    few = Estimate(0.36, np.nan, np.nan, n=6)
    Console(width=80).print(f"{few:.0%}, {Estimate(0.36, 0.2, 0.5):.0%}")
    assert capsys.readouterr().out == "36% (n=6: no interval), 36% [20%, 50%]\n"
