"""Settings of think, then decide."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.study.settings import Asking


@dataclass(frozen=True)
class Decide(Asking):
    """Let every exit think, decide with a verdict token, and answer; write tables and figures."""

    out: Path = Path("runs/decide")
    """Run directory. A run that was cut short is continued."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    protocol: str = "prompted"
    """What is said to the model and what it says: prompted, tuned, or a TOML file."""
    prompts: tuple[str, ...] = ("builtin:pairs",)
    """As for `jaxdepth sweep`."""
    thought_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The longest thought, in place of the protocol's; 0 decides at once."""
    answer_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The longest answer, in place of the protocol's; 0 only decides."""
    votes: int = 1
    """Thoughts per prompt and exit; more than one needs a temperature."""
    temperature: float = 0.0
    """Of thoughts and answers; 0 takes the most probable token."""
    verdict_temperature: float = 1.0
    """Divides the verdicts' log-probabilities; a run prints the one that fits its prompts."""
    refuse_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Refuse from this P(refuse) on; by default the most probable verdict is taken."""
    caution_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Answer in part from this P(refuse) + P(partial) on; goes with --refuse-from."""
    abstain_below: float = 0.0
    """Abstain, and show nothing, where the first verdict leads the second by less."""
    cuts: tuple[int, ...] = (0, 16, 64)
    """Also decide after only so many tokens of each thought; 0 is the direct verdict."""
    swap: bool = True
    """Also decide upon the thought of another prompt."""
    force: bool = True
    """Also answer after each of the three verdicts."""
    series: Literal["none", "caveat", "redecide"] = "none"
    """A second pass over what was judged partial: write the caveated answer, or decide again."""
    cost_rounds: int = 1
    """How often each program is timed for the table of costs; 0 leaves it out."""
    keep_text: bool = True
    """Keep thoughts and answers in the run directory; --swap needs them."""
    batch_size: int = 8
    """Prompts per step. Changes speed and memory, not results."""
