"""Does suppression backfire, so that knowledge degrades and answers hedge?

Tests C12 (suppression degrades facts and adds hedging).

    python experiments/backfire.py MODEL [--against ALIGNED] [any option of `jaxdepth sweep`]

Scores a knowledge set at every exit of MODEL and of the aligned checkpoint (or MODEL with an
adapter): general questions, and harmless ones that sound dangerous. Then generates the answers of
both and counts caveats in place of an answer. The settings are configs/backfire.toml by default. A
run that was stopped resumes with the same command.
"""

import sys

import pandas as pd

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.checkpoints.backfire import backfire
from jaxdepth.study.checkpoints.figures import draw_against, draw_hedging
from jaxdepth.study.checkpoints.paired import mean_of, read_paired
from jaxdepth.study.checkpoints.settings import Backfire
from jaxdepth.study.checkpoints.summary import expected, hedging, knowledge
from jaxdepth.study.checkpoints.tables import (
    MARGIN,
    NEIGHBOURING,
    NEIGHBOURING_MINUS_GENERAL,
    RIGHT,
)


def verdicts(rows: pd.DataFrame) -> list[str]:
    """What C12 (suppression degrades facts) expects, and whether the means over exits agree."""
    gap = NEIGHBOURING_MINUS_GENERAL
    if not (rows["domain"] == gap).any():
        return []
    return [
        "Expected if suppression degrades facts "
        "(C12, means of exits; supported, refuted, or open where 0 is in the interval):",
        expected(
            "fewer right answers to neighbouring questions",
            mean_of(rows, RIGHT, NEIGHBOURING),
            -1,
        ),
        expected("their margin shrinks", mean_of(rows, MARGIN, NEIGHBOURING), -1),
        expected("it shrinks more than that of general questions", mean_of(rows, MARGIN, gap), -1),
    ]


def main() -> int:
    """Run the comparison and print the answers; return the exit status."""
    settings = parse(Backfire, sys.argv[1:], "backfire", config="backfire")
    compared = backfire(settings, progress_bar)
    out = settings.study.output.out
    rows = read_paired(out)
    print("\n".join([*knowledge(rows), *hedging(compared), *verdicts(rows)]))
    print_places(out, draw_against(out) | draw_hedging(compared, out))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
