"""Settings of per-token exit policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.ranges import COUNT, SHARE, Range
from jaxdepth.study.prefills.settings import PrefillAxis
from jaxdepth.study.settings import PromptSets
from jaxdepth.study.sweep.settings import Sweep


@dataclass(frozen=True)
class Policies:
    """Per-token early exit, in place of static exits."""

    policy: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=THRESHOLDS")] = ()
    """Exit policies with their thresholds, such as margin=0.3,0.6 fixed=20,24 oracle: each token
    exits at the first of --exits whose confidence reaches the threshold. Policies: top1, margin,
    saturation, patience, classifier, guarded, fixed, oracle. guarded=PROBE@LAYER:T/EXIT exits at
    EXIT (by default the first of --exits that is not before LAYER) where the probe, read at the
    prompt's last token after LAYER layers, gives a probability of at least T that the prompt is
    harmless; every other prompt is answered at full depth."""
    caching: Literal["late", "propagate"] = "late"
    """With --policy: how the KV cache gets keys and values for layers that a token skipped. late
    runs those layers once a later token needs them (the same numbers as without skipping);
    propagate computes keys and values at once from the token's hidden state at its exit (CALM's
    state propagation)."""
    decay: Annotated[float | None, tyro.conf.arg(metavar="RATE"), Range(0)] = None
    """With --policy: thresholds decay along an answer, to 0.9 threshold + 0.1 exp(-RATE t / N) at
    token t of N (CALM)."""
    classifier: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --policy classifier=...: a .safetensors file of exit classifiers, which
    experiments/static_or_dynamic.py fits."""
    probes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --policy guarded=...: the probes.safetensors of a `jaxdepth probe` run of this model on
    other prompts, with probes such as content and behaviour."""
    guard_reads: Literal["prompt", "answer"] = "prompt"
    """With --policy guarded=...: what the probe reads. prompt: its last token alone; answer: that
    and every token of the answer, which goes on at full depth from the first that is not calm."""


@dataclass(frozen=True, kw_only=True)  # groups are told apart by name
class PolicySweep:
    """Run every prompt at every exit, or let every token choose its exit by a policy."""

    sweep: Annotated[Sweep, tyro.conf.arg(name="")]
    prefills: PrefillAxis = PrefillAxis()
    policies: Policies = Policies()


@dataclass(frozen=True)
class Calibration:
    """Calibration of thresholds, and self-speculative decoding."""

    validation: PromptSets = ("builtin:pairs/validation",)
    """Prompts for calibrating thresholds and fitting exit classifiers; results are not reported on
    them."""
    depths: Annotated[
        tuple[float, ...], tyro.conf.arg(metavar="SHARE"), Range(0, 1, open_low=True)
    ] = (0.6, 0.7, 0.8, 0.9)
    """Target mean depths of the calibration, as shares of all layers."""
    risk: Annotated[float, tyro.conf.arg(metavar="SHARE"), SHARE] = 0.2
    """Target risk of the calibration: mean share of tokens that differ from full depth's."""
    error: Annotated[float, tyro.conf.arg(metavar="P"), SHARE] = 0.05
    """Maximum probability that a calibrated threshold exceeds the target risk."""
    draft_depths: Annotated[str, tyro.conf.arg(metavar="LAYERS")] = "15-29"
    """Draft depths of self-speculative decoding, as numbers of layers; an empty string skips it."""
    draft_tokens: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 4
    """Tokens drafted before each verification."""


@dataclass(frozen=True)
class StaticOrDynamic:
    """Exit every token at one depth, or each by a policy: what is kept at the same mean depth?"""

    sweep: Annotated[Sweep, tyro.conf.arg(name="")]
    policies: Policies = Policies()
    calibration: Calibration = Calibration()
