"""Settings of labelling."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdepth.ranges import COUNT, SEED


@dataclass(frozen=True)
class Label:
    """Label a blind sample of the answers in runs by hand, and correct all rates by the labels."""

    runs: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUNS", help_behavior_hint="(required)")]
    ]
    """Runs of `jaxdepth sweep` or `decide` that kept their texts, or the folder of a comparison for
    all runs in it."""
    rater: Annotated[str, tyro.conf.arg(metavar="NAME")] = "first"
    """Name of the person who labels. A second rater labels the same texts under another name; rates
    are corrected by the labels of the rater who began first."""
    n: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 150
    """Answers to draw from each run, spread over prompt labels, outcomes and bands of exits. A
    larger number extends an earlier sample."""
    bands: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 2
    """Bands of neighbouring exits before full depth, of equal size; full depth is a band of its
    own."""
    seed: Annotated[int, tyro.conf.arg(metavar="SEED"), SEED] = 0
    """Seed of the sample and of its order."""
    export: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Write the sample to this CSV file, to be labelled in a spreadsheet; label nothing here."""
    import_: Annotated[Path | None, tyro.conf.arg(name="import", metavar="FILE.csv")] = None
    """Read the rater's labels from such a file; rows without a label are left out."""
