"""Does suppression backfire, so that harmless facts degrade and answers hedge?

Tests C12 (suppression degrades facts and adds hedging).

    python experiments/backfire.py MODEL [--against ALIGNED] [any option of `jaxdepth sweep`]

Reads facts off every exit of MODEL and of the aligned checkpoint (or MODEL with an adapter):
general ones, and harmless ones from the dangerous domain's neighbourhood. Then lets both speak and
counts caveats in place of an answer. The settings are configs/backfire.toml by default. A run that
was stopped goes on with the same command.
"""

import sys

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.checkpoints.backfire import backfire
from jaxdepth.study.checkpoints.facts import GENERAL, NEIGHBOURING
from jaxdepth.study.checkpoints.figures import draw_against, draw_hedging
from jaxdepth.study.checkpoints.paired import MARGIN, RIGHT, read_paired
from jaxdepth.study.checkpoints.settings import Backfire
from jaxdepth.study.checkpoints.summary import expected, hedging, knowledge, mean_row


def verdicts(rows: list[dict]) -> list[str]:
    """What C12 (suppression degrades facts) expects, and whether the means over exits held."""
    between = f"{NEIGHBOURING} - {GENERAL}"
    if not any(r["domain"] == between for r in rows):
        return []
    return [
        "Expected if suppression degrades facts "
        "(C12, means of exits; held, refuted, or open where 0 is in the interval):",
        expected("fewer neighbouring facts are right", mean_row(rows, RIGHT, NEIGHBOURING), -1),
        expected("their margin shrinks", mean_row(rows, MARGIN, NEIGHBOURING), -1),
        expected("it shrinks more than that of general facts", mean_row(rows, MARGIN, between), -1),
    ]


def main() -> int:
    """Runs the comparison and prints the answers; returns the exit status."""
    settings = parse(Backfire, sys.argv[1:], "backfire", config="backfire")
    compared = backfire(settings, progress_bar)
    out = settings.study.output.out
    rows = read_paired(out)
    print("\n".join([*knowledge(rows), *hedging(compared), *verdicts(rows)]))
    print_places(out, draw_against(out) | draw_hedging(compared, out))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
