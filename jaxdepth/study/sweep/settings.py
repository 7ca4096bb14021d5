"""Settings of a sweep."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxdepth.study.settings import Speaking


@dataclass(frozen=True)
class Sweep(Speaking):
    """Run every prompt at every exit and write tables and figures."""

    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
