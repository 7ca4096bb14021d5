"""Settings of comparing models."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxdepth.study.settings import UNTOUCHED, Speaking


@dataclass(frozen=True)
class Study(Speaking):
    """Sweep a checkpoint as it is and with adapters, and compare them prompt by prompt."""

    adapters: tuple[str, ...] = (
        UNTOUCHED,
        "builtin:shallow",
        "builtin:spoken",
        "builtin:depth_robust",
    )
    """What is compared: untouched, builtin:NAME, .safetensors files or PEFT folders."""


@dataclass(frozen=True)
class Alignment(Speaking):
    """Tune one checkpoint by several methods, on the same data and steps, and compare them."""

    methods: tuple[Literal["refusals", "verdicts", "dpo"], ...] = ("refusals", "verdicts", "dpo")
    """How it is aligned, as for `jaxdepth tune`."""
    recipe: str = "tune/shallow"
    """The settings that all methods share: a file for `jaxdepth tune`."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps of each, in place of the recipe's."""
