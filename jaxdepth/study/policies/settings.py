"""Settings of per-token exit policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxdepth.study.sweep.settings import Sweep


@dataclass(frozen=True)
class PolicySweep(Sweep):
    """Run every prompt at every exit, or let tokens exit one by one; write tables and figures."""

    policy: tuple[str, ...] = ()
    """Policies with thresholds, such as margin=0.3,0.6 fixed=20,24 oracle: each token exits at the
    first of --exits that shows enough. top1, margin, saturation, patience, classifier, fixed,
    oracle."""
    caching: Literal["late", "propagate"] = "late"
    """With --policy: what a token leaves in layers that it did not run. What it would have had,
    computed when a later token goes deeper; or what follows from the stream that it exited with."""
    decay: float | None = None
    """With --policy: thresholds fall along an answer, by 0.9 of them + 0.1 exp(-decay t / N)."""
    classifier: Path | None = None
    """With --policy classifier=...: a .safetensors file of exit classifiers."""


@dataclass(frozen=True)
class StaticOrDynamic(PolicySweep):
    """Cut every token at one depth, or let each exit by itself: what is kept at the same depth?"""

    validation: tuple[str, ...] = ("builtin:pairs/validation",)
    """Prompts that thresholds are calibrated on, and exit classifiers fitted; not reported."""
    depths: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9)
    """Mean depths to calibrate for, as shares of all layers."""
    risk: float = 0.2
    """Mean share of tokens that may differ from full depth's, to calibrate for."""
    error: float = 0.05
    """How probable it may be that a calibrated threshold exceeds the risk."""
    draft_depths: str = "15-29"
    """Draft depths of self-speculative decoding; empty leaves it out."""
    draft_tokens: int = 4
    """Tokens drafted before each verification."""
    draws: int = 1000
    """Of the bootstrap, whole pairs at a time."""
