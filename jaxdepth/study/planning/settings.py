"""Settings of plans and benches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.study.settings import Mesh, Profile


@dataclass(frozen=True)
class Bench:
    """Time all exits against one run at full depth, side by side in this process."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    batches: tuple[int, ...] = (1, 4, 16)
    """How many prompts at once."""
    length: int = 48
    """Tokens per prompt."""
    new_tokens: int = 16
    """Tokens that each lane says."""
    rounds: int = 5
    """How often each program is run."""
    loop: bool = True
    """Also time the loops over single exits, which take long."""
    mesh: Mesh = None
    """Devices that share the work, as for sweep."""
    profile: Profile = None
    """Write a profile of the devices' work there."""


@dataclass(frozen=True)
class Plan:
    """Say what a sweep and a tuning step need on devices that are not there."""

    model: tyro.conf.Positional[Path]
    """A converted checkpoint, another folder with a config.json, or a config.json; no weights."""
    topology: Annotated[str | None, tyro.conf.arg(metavar="T")] = None
    """A TPU slice by its name, such as v5e:4x4; needs jaxdepth[tpu]."""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """So many GPUs instead, planned on as many virtual CPU devices."""
    gpu: str = "H100"
    """Which: A100, H100 or H200."""
    gpu_memory: Annotated[float | None, tyro.conf.arg(metavar="GB")] = None
    """Memory of each, where it is not that of the kind."""
    mesh: str = "data=1"
    """How the devices share the work, such as data=4,model=4: its product is their number."""
    prompts: int = 64
    """Prompts at once."""
    length: int = 256
    """Tokens of a prompt."""
    new_tokens: int = 64
    """Tokens that each exit says."""
    exits: str = "all"
    """Which exits."""
    samples: int = 1
    """Answers per prompt and exit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and activations."""
    study_prompts: int = 1000
    """Prompts of the whole sweep."""
    sequences: int = 16
    """Sequences of a tuning step (LoRA of rank 8 on all layers, three exits and full depth); 0
    leaves it out."""
