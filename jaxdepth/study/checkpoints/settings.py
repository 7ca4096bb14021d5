"""Settings of comparing two checkpoints."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxdepth.ranges import Range
from jaxdepth.stats.intervals import MAX_RESAMPLES
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.settings import ExitStudy, PromptSets


@dataclass(frozen=True)
class Against:
    """Comparison with a second checkpoint."""

    against: Annotated[str | None, tyro.conf.arg(metavar="ALIGNED")] = None
    """Also probe this checkpoint, or MODEL with this adapter, and compare the two layer by
    layer."""
    control: PromptSets = ("builtin:control",)
    """With --against: control domain, harmless prompts of two categories that probes tell apart."""
    facts: Annotated[str | None, tyro.conf.arg(metavar="FACTS")] = None
    """With --against: also measure knowledge at every exit, on builtin:facts or a .jsonl file of
    questions with right and wrong answers."""


@dataclass(frozen=True)
class ProbeAgainst:
    """Fit linear probes to every layer of a model, or of two checkpoints to compare them."""

    probe: Annotated[Probe, tyro.conf.arg(name="")]
    comparison: Against = Against()


@dataclass(frozen=True)
class Backfire:
    """Compare the knowledge and the answers of two checkpoints at every exit."""

    study: Annotated[ExitStudy, tyro.conf.arg(name="")]
    against: Annotated[str, tyro.conf.arg(metavar="ALIGNED")] = "builtin:depth_robust"
    """The other checkpoint, or an adapter of MODEL."""
    facts: Annotated[str, tyro.conf.arg(metavar="FACTS")] = "builtin:facts"
    """Knowledge set: builtin:facts, or a .jsonl file with question, right and wrong in each
    line."""
    draws: Annotated[int, tyro.conf.arg(metavar="R"), Range(1, MAX_RESAMPLES)] = 1000
    """Number of bootstrap resamples, which resample whole questions."""
