"""Settings of each command: frozen dataclasses, from the command line or a file in configs/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.refusal.openers import DEFAULT_OPENERS

Mesh = Annotated[str | None, tyro.conf.arg(metavar="SIZES")]
Profile = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True)
class OnModel:
    """A model, what it is asked, and how it is run."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    out: Path
    """Run directory. A run that was cut short is continued."""
    prompts: tuple[str, ...] = ("builtin:pairs",)
    """builtin:pairs, builtin:ordinary, or .jsonl, .json, .csv, .txt files; write harmful=FILE or
    harmless=FILE where the file itself has no labels."""
    steer: Literal["none", "ablate", "add"] = "none"
    """Change the residual stream: take a direction out of it, or add one to it."""
    directions: Path | None = None
    """The directions.safetensors of a `jaxdepth probe`; goes with --steer."""
    direction: Annotated[str | None, tyro.conf.arg(metavar="NAME@LAYER")] = None
    """Which of them, and as found after which layer, such as content.instruction@15."""
    steer_layers: str = "all"
    """After which layers the stream is changed, such as 10-20."""
    steer_scale: float = 1.0
    """How much of the direction is taken out or added; 1 is all of it."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N prompts (the halves of a pair count as one)."""
    batch_size: int = 16
    """Prompts per step. Changes speed and memory, not results."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights and activations; by default that of the checkpoint."""
    int8: bool = False
    """Hold the layers' matrices as 8-bit integers, each output with its scale."""
    seed: int = 0
    """Of draws and of the bootstrap intervals."""
    mesh: Mesh = None
    """Devices that share the work, such as data=4,model=2: prompts over data, heads and MLP over
    model, the width of all weights over fsdp."""
    profile: Profile = None
    """Write a profile of the devices' work there, for TensorBoard or Perfetto."""


@dataclass(frozen=True)
class Asking(OnModel):
    """A model that is cut at some exits and speaks there."""

    exits: str = "all"
    """Which exits: all, or numbers and ranges such as 1,8,16-30."""
    temperature: float = 0.0
    """0 takes the most probable token."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Draw among the K most probable tokens."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Draw among the most probable tokens that together have probability P."""
    reference: Path | None = None
    """The checkpoint that judges coherence; by default the model itself at full depth."""
    keep_text: bool = True
    """Keep what the model said in the run directory."""
    memory_gb: float = 2.0
    """Memory for caches and logits; more lanes than fit are split."""


@dataclass(frozen=True)
class Speaking(Asking):
    """What is asked of a model at every exit, and how its answers are taken."""

    out: Path = Path("runs/sweep")
    """Run directory. A run that was cut short is continued."""
    max_new_tokens: int = 32
    """Tokens that each exit says at most; 0 sweeps the first token only."""
    generate_limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Generate for the first N prompts only (the halves of a pair count as one)."""
    samples: int = 1
    """Answers per prompt and exit; more than one needs a temperature."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; cut off with all that follows."""
    openers: tuple[str, ...] = DEFAULT_OPENERS
    """Words that open a refusal; each must be one token of the model."""


UNTOUCHED = "untouched"
