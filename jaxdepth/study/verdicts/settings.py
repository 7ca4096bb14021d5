"""Settings of think, then decide."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.study.settings import (
    AdaptedModel,
    Decoding,
    Devices,
    Output,
    Prompts,
    Steering,
    Texts,
)


@dataclass(frozen=True)
class Thinking:
    """The protocol: a thought, a verdict token (REFUSE, PARTIAL, COMPLY), then the answer."""

    protocol: Annotated[str, tyro.conf.arg(metavar="NAME")] = "prompted"
    """The instruction, the markers around a thought and the verdict words: prompted (any instruct
    model), tuned (special tokens of a tuned model), or a TOML file."""
    thought_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Maximum tokens of a thought, in place of the protocol's; 0 decides at once."""
    answer_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Maximum tokens of an answer, in place of the protocol's; 0 only decides."""
    votes: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Thoughts per prompt and exit, for a majority vote; more than one needs a temperature above
    0."""
    series: Literal["none", "caveat", "redecide"] = "none"
    """Second pass over the prompts whose verdict was PARTIAL: caveat writes the answer with
    caveats, redecide decides again without a thought."""


@dataclass(frozen=True)
class DecisionRule:
    """From the probabilities of the three verdicts to one verdict."""

    verdict_temperature: Annotated[float, tyro.conf.arg(metavar="T")] = 1.0
    """Temperature scaling of the verdicts' log-probabilities; a run prints the one that fits its
    prompts."""
    refuse_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Verdict REFUSE where P(refuse) is at least P; by default the most probable verdict is
    taken."""
    caution_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Else verdict PARTIAL where P(refuse) + P(partial) is at least P; goes with --refuse-from."""
    abstain_below: Annotated[float, tyro.conf.arg(metavar="P")] = 0.0
    """Abstain, and show no answer, where the most probable verdict leads the second by less."""


@dataclass(frozen=True)
class Interventions:
    """Interventions on the thought and the verdict, and the table of costs."""

    cuts: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = (0, 16, 64)
    """Also read the verdict after only the first N tokens of each thought; 0 is the verdict
    without a thought."""
    swap: bool = True
    """Also decide after the thought of another prompt (of the pair's other prompt, if any)."""
    force: bool = True
    """Also generate an answer after each of the three verdicts, whatever was decided."""
    cost_rounds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Timed runs of each program for the table of costs; 0 leaves the table out."""


@dataclass(frozen=True, kw_only=True)
class Decide:
    """Let every exit think, decide with a verdict token, and answer; write tables and figures."""

    model: AdaptedModel
    prompts: Prompts = Prompts(batch_size=8)
    thinking: Thinking = Thinking()
    decision: DecisionRule = DecisionRule()
    decoding: Decoding = Decoding()
    interventions: Interventions = Interventions()
    texts: Texts = Texts()
    steering: Steering = Steering()
    devices: Devices = Devices()
    output: Output = Output(Path("runs/decide"))
