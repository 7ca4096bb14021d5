"""Settings of comparing models."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxdepth.ranges import COUNT
from jaxdepth.study.settings import UNTOUCHED, ExitStudy


@dataclass(frozen=True)
class Study:
    """Sweep a checkpoint as it is and with adapters, and compare them prompt by prompt."""

    study: Annotated[ExitStudy, tyro.conf.arg(name="")]
    adapters: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ADAPTER")] = (
        UNTOUCHED,
        "builtin:lens",
        "builtin:shallow",
        "builtin:spoken",
        "builtin:depth_robust",
    )
    """Models to compare: untouched (the checkpoint itself), builtin:NAME, .safetensors files or
    PEFT folders."""


@dataclass(frozen=True)
class Alignment:
    """Tune one checkpoint by several methods, on the same data and steps, and compare them."""

    study: Annotated[ExitStudy, tyro.conf.arg(name="")]
    methods: tuple[Literal["refusals", "verdicts", "dpo"], ...] = ("refusals", "verdicts", "dpo")
    """Alignment methods, as for `jaxdepth tune --method`."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tune/shallow"
    """Settings that all methods share: a TOML file for `jaxdepth tune`."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """Training steps of each method, in place of the recipe's."""
