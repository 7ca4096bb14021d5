"""Settings of probing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.ranges import COUNT, POSITIVE, Range
from jaxdepth.stats.intervals import MAX_RESAMPLES
from jaxdepth.study.settings import (
    AdaptedModel,
    Devices,
    FirstToken,
    Output,
    Prompts,
    PromptSets,
    Steering,
)


@dataclass(frozen=True)
class Probes:
    """Linear probes of every layer, cross-validated by pair."""

    transfer: PromptSets = ()
    """Other prompt sets on which the fitted probes are tested; A+B joins two sources."""
    positions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="POSITION")] = ("all",)
    """Token positions: all, or instruction (the last token of the prompt text), template1..
    (the chat template's tokens after it), last, and response (the first token of the reply)."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """A finished `jaxdepth sweep` or `decide` run of this model on these prompts: its outcomes
    become probe targets, beside the harmfulness of the prompt."""
    folds: Annotated[int, tyro.conf.arg(metavar="N"), Range(3, 1000)] = 5
    """Cross-validation folds; the regularisation is chosen on one fold inside the training part."""
    group_by: Literal["pair", "source"] = "pair"
    """What stays whole in one fold: the two prompts of a pair, or all prompts of one prompt set."""
    strengths: Annotated[tuple[float, ...], tyro.conf.arg(metavar="C"), POSITIVE] = (
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
        10.0,
    )
    """Candidates for scikit-learn's C, the inverse strength of the L2 penalty. Each fold takes the
    one with the highest AUROC on validation prompts."""
    draws: Annotated[int, tyro.conf.arg(metavar="R"), Range(1, MAX_RESAMPLES)] = 1000
    """Number of bootstrap resamples, which keep pairs whole."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Fit linear probes to every layer, and compare them with what the model does."""

    model: AdaptedModel
    prompts: Prompts = Prompts()
    probes: Probes = Probes()
    first_token: FirstToken = FirstToken()
    steering: Steering = Steering()
    devices: Devices = Devices()
    output: Output = Output(Path("runs/probe"))


@dataclass(frozen=True, kw_only=True)
class Where:
    """Locate safety: what every layer knows, what exits do, and what a direction causes."""

    model: AdaptedModel
    prompts: Prompts = Prompts(("builtin:pairs/test",))
    transfer: PromptSets = ("builtin:pairs/unseen",)
    """Other prompt sets, on which the probes are tested and directions ablated."""
    exits: Annotated[str, tyro.conf.arg(metavar="EXITS")] = "all"
    """Exits of the sweep: all, or numbers and ranges such as 1,8,16-30."""
    max_new_tokens: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 24
    """Maximum number of new tokens of an answer."""
    positions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="POSITION")] = ("all",)
    """Token positions of the probes, as for `jaxdepth probe`."""
    direction: Annotated[str, tyro.conf.arg(metavar="NAME")] = "content.last"
    """The direction that is ablated at every layer: a name in the probe run's
    directions.safetensors."""
    devices: Devices = Devices()
    output: Output = Output(Path("runs/where_is_safety"))
