"""Settings of the comparison of thinking with deciding at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdepth.ranges import COUNT, POSITIVE, SEED, Range
from jaxdepth.study.settings import (
    Decoding,
    Devices,
    Model,
    Output,
    Prompts,
    PromptSets,
    Texts,
)

Count = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class Arms:
    """The arms, their seeds, and where their adapters come from."""

    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N"), SEED] = (1, 2, 3)
    """Training seeds of the arms direct and thought."""
    control_seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N"), SEED] = (1,)
    """Training seeds of the other arms."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ARM")] = ()
    """Run these arms, such as filler, or single seeds of them, such as thought-2, and read from the
    run directory what earlier calls finished; the rest is reported as not run. By default all."""
    adapters: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ARM-SEED=ADAPTER")] = ()
    """Adapters that are there already, such as thought-1=builtin:thinker, or a folder that has
    ARM-SEED.safetensors or ARM-SEED/adapter.safetensors of some."""
    train: bool = True
    """Tune the adapters that are missing; else they are reported as not run."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tune/thinker"
    """Settings that all arms share: a TOML file for `jaxdepth tune`."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """Training steps of each arm, in place of the recipe's."""


@dataclass(frozen=True)
class Measures:
    """What is measured of each arm beside its verdicts."""

    cuts: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N"), Range(0)] = (0, 4, 8, 16, 32)
    """Of arms that think: also read the verdict after the first N tokens of the thought, for each
    N; 0 is the verdict without a thought."""
    answer_tokens: Annotated[Count, Range(0)] = 32
    """Maximum tokens of an answer."""
    answered: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ARM-SEED")] = (
        "direct-1",
        "thought-1",
    )
    """Which of them also answer; the others only decide."""
    spoken: Annotated[str, tyro.conf.arg(metavar="ADAPTER")] | None = "builtin:spoken"
    """The adapter whose answers are the bar for those after COMPLY: full depth only."""
    votes: Annotated[Count, Range(0)] = 5
    """Sampled thoughts per prompt in a second run of the first adapter that thinks, which also
    forces verdicts, repeats PARTIAL ones and measures costs; 0 omits this run."""
    votes_limit: Annotated[Count, Range(0)] = 30
    """Prompts of that run: the first N, a pair counts as one."""
    vote_temperature: Annotated[float, tyro.conf.arg(metavar="T"), Range(0)] = 0.7
    """Sampling temperature of that run."""


@dataclass(frozen=True)
class Probe:
    """The bar: a linear probe of the untouched model before any thought."""

    probe_prompts: PromptSets = ("builtin:pairs/train",)
    """Prompts that the probe is fitted on; layer and strength are chosen by folds of them."""
    probe_layers: Annotated[str, tyro.conf.arg(metavar="LAYERS")] = "all"
    """Layers that it may choose from, such as 12-30; for each exit those that the exit runs."""
    probe_strengths: Annotated[tuple[float, ...], tyro.conf.arg(metavar="C"), POSITIVE] = (
        1e-4,
        1e-3,
        1e-2,
        1e-1,
    )
    """Inverse strengths of the L2 penalty that it may choose from."""
    probe_folds: Annotated[Count, Range(2, 1000)] = 5
    """Folds of whole pairs for that choice."""


@dataclass(frozen=True, kw_only=True)
class ThinkThenDecide:
    """Tune arms that think and arms that do not, alike, and compare their verdicts by prompt."""

    model: Model
    arms: Arms = Arms()
    prompts: Prompts = Prompts()
    decoding: Decoding = Decoding()
    measures: Measures = Measures()
    probe: Probe = Probe()
    texts: Texts = Texts()
    devices: Devices = Devices()
    output: Output = Output(Path("runs/think_then_decide"))
