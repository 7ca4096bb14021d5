"""Settings of conversion, export and inspection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.ranges import COUNT

SourcePath = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SOURCE")]]
TargetPath = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TARGET")]]


@dataclass(frozen=True)
class Convert:
    """Convert a Hugging Face folder, a GGUF file or a model on the hub to a checkpoint."""

    source: SourcePath
    """Folder with config.json and *.safetensors, a .gguf file, or a model's id on the hub."""
    target: TargetPath
    """Folder to create. If it already contains this source, converted, nothing is done."""
    tokenizer: bool = True
    """Copy the tokenizer; without it, prompts cannot be read."""
    verify: bool = False
    """After converting, read source and checkpoint again and compare every array's digest, and the
    logits of every exit if both models fit in memory."""


@dataclass(frozen=True)
class Inspect:
    """Describe a checkpoint, a run, an adapter or a source of weights, and check it for damage."""

    path: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="PATH")]]
    """A checkpoint, a run directory, an adapter (also builtin:NAME), a Hugging Face folder or a
    .gguf file."""


@dataclass(frozen=True)
class Export:
    """Write a checkpoint, truncated or with an adapter merged in, as a Hugging Face folder."""

    model: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]]
    """A checkpoint made by `jaxdepth convert`."""
    target: TargetPath
    """Folder to create."""
    to: Literal["huggingface", "checkpoint"] = "huggingface"
    """Format: safetensors that transformers loads, or a checkpoint for jaxdepth."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="ADAPTER")] = None
    """Adapter to merge in: builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT
    folder."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """dtype of the written weights; by default the checkpoint's."""
    exit: Annotated[int | None, COUNT] = None
    """Truncate after so many layers; the final norm and the head stay. By default all layers."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Certificate from `jaxdepth certify` of what is exported; another exit, model, adapter or
    dtype is refused. It is written into the folder too."""
