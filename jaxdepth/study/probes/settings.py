"""Settings of probing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jaxdepth.refusal.openers import DEFAULT_OPENERS
from jaxdepth.study.settings import OnModel


@dataclass(frozen=True)
class Probe(OnModel):
    """Read what every layer knows of a prompt, and hold it against what the model does."""

    exits: ClassVar[str] = "all"
    reference: ClassVar[Path | None] = None  # nothing is said that would have to be judged

    out: Path = Path("runs/probe")
    """Run directory. A run that was cut short is continued."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    transfer: tuple[str, ...] = ()
    """Other prompts that the probes are tried on, not fitted; A+B joins two sources."""
    positions: tuple[str, ...] = ("all",)
    """all, or instruction, template1.., last, and response: the first token of the reply."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """A run of `jaxdepth sweep` or `decide` on this model and these prompts: what it did."""
    folds: int = 5
    """Each is tested by probes of the others, of which one chooses."""
    group_by: Literal["pair", "source"] = "pair"
    """What folds keep whole: pairs, or all prompts of a file or built-in set."""
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Inverse strengths of regularisation to choose among."""
    draws: int = 1000
    """Of the bootstrap, whole pairs at a time."""
    openers: tuple[str, ...] = DEFAULT_OPENERS
    """Words that open a refusal, for the curve of refusal; each must be one token."""


@dataclass(frozen=True)
class Where:
    """Ask where safety sits: what every layer knows, what exits do, and what a direction causes."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    out: Path = Path("runs/where_is_safety")
    """Folder of the runs: sweep, probe, ablation. What was cut short is continued."""
    prompts: tuple[str, ...] = ("builtin:pairs/test",)
    """What is asked and probed, as for `jaxdepth sweep`."""
    transfer: tuple[str, ...] = ("builtin:pairs/unseen",)
    """Other prompts: the probes are tried on them, and with them directions are ablated."""
    exits: str = "all"
    """Of the sweep."""
    max_new_tokens: int = 24
    """Tokens that each exit says at most."""
    positions: tuple[str, ...] = ("all",)
    """Of the probes, as for `jaxdepth probe`."""
    direction: str = "content.last"
    """What is ablated at every layer: a name in the probe run's directions.safetensors."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N prompts of each (the halves of a pair count as one)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights and activations; by default that of the checkpoint."""
    seed: int = 0
    """Of folds and of the bootstrap intervals."""
