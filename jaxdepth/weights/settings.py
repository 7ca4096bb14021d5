"""Settings of conversion, export and inspection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Convert:
    """Convert a Hugging Face folder, a GGUF file or a model on the hub to a checkpoint."""

    source: tyro.conf.Positional[Path]
    """Folder with config.json and *.safetensors, a .gguf file, or a model's id on the hub."""
    target: tyro.conf.Positional[Path]
    """Folder to make. If it already holds this source, nothing is done."""
    tokenizer: bool = True
    """Take the tokenizer along; without it, prompts cannot be read."""
    verify: bool = False
    """Then read both again: every array's digest, and the logits of every exit where they fit."""


@dataclass(frozen=True)
class Inspect:
    """Say what lies at a path, and whether it is whole: checkpoint, run, adapter or source."""

    path: tyro.conf.Positional[Path]
    """A checkpoint, a run directory, an adapter, a Hugging Face folder or a .gguf file."""


@dataclass(frozen=True)
class Export:
    """Write a checkpoint, with an adapter merged in, as a Hugging Face folder or a checkpoint."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    target: tyro.conf.Positional[Path]
    """Folder to make."""
    to: Literal["huggingface", "checkpoint"] = "huggingface"
    """What to make: safetensors that transformers loads, or a checkpoint for jaxdepth."""
    adapter: str | None = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights that are written; by default that of the checkpoint."""
