"""Settings of comparing two checkpoints."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.settings import Speaking


@dataclass(frozen=True)
class ProbeAgainst(Probe):
    """Read what every layer knows of a prompt, beside what the model does; compare checkpoints."""

    against: Annotated[str | None, tyro.conf.arg(metavar="ALIGNED")] = None
    """Also probe this checkpoint, or MODEL with this adapter, and compare the two."""
    control: tuple[str, ...] = ("builtin:control",)
    """With --against: prompts of two categories that have nothing to do with harm."""
    facts: Annotated[str | None, tyro.conf.arg(metavar="FACTS")] = None
    """With --against: also read facts at every exit; builtin:facts or a .jsonl file."""


@dataclass(frozen=True)
class Backfire(Speaking):
    """Read facts off two checkpoints at every exit, and let both speak: what do they withhold?"""

    against: Annotated[str, tyro.conf.arg(metavar="ALIGNED")] = "builtin:depth_robust"
    """Another checkpoint, or an adapter of MODEL."""
    facts: str = "builtin:facts"
    """builtin:facts, or a .jsonl file with question, right and wrong in each line."""
    draws: int = 1000
    """Of the bootstrap, whole questions at a time."""
