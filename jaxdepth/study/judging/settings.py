"""Settings of judging a run's answers once more."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdepth.ranges import SEED


@dataclass(frozen=True)
class Rejudge:
    """Judge the answers that a run has kept with other judges, and compare what they say."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A run of `jaxdepth sweep` or `decide` that keeps its texts. Nothing is generated again."""
    judge: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="JUDGE")]
    ] = ()
    """Judge, given once for each: builtin; wildguard:PATH, harmbench:PATH, sorrybench:PATH or
    llamaguard:PATH (a converted checkpoint); openai:MODEL@URL (an endpoint, with a key from
    JAXDEPTH_JUDGE_KEY or OPENAI_API_KEY); python:FILE.py:function (your own program)."""
    reference: Annotated[Path | None, tyro.conf.arg(metavar="MODEL")] = None
    """Checkpoint by which the built-in rule reads answers. By default that of the run."""
    encoder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Sentence encoder by which the built-in rule tells whether an answer is to the point. By
    default that of the run, if it had one."""
    seed: Annotated[int, tyro.conf.arg(metavar="SEED"), SEED] = 0
    """Seed of bootstrap intervals."""
