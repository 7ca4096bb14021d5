"""Settings of think, then decide."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.ranges import POSITIVE, PROBABILITY, Range
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

    protocol: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The instruction, the markers around a thought and the verdict words: prompted (any instruct
    model), tuned (special tokens of a tuned model), or a TOML file. By default that of the adapter
    if it was tuned to decide, else prompted."""
    thought_tokens: Annotated[int | None, tyro.conf.arg(metavar="N"), Range(0)] = None
    """Maximum tokens of a thought, in place of the protocol's; 0 decides at once."""
    answer_tokens: Annotated[int | None, tyro.conf.arg(metavar="N"), Range(0)] = None
    """Maximum tokens of an answer, in place of the protocol's; 0 only decides."""
    votes: Annotated[int, tyro.conf.arg(metavar="N"), Range(1, 10_000)] = 1
    """Sampled thoughts per prompt and exit; their verdicts are also combined by vote. More than one
    needs a temperature above 0."""
    series: Literal["none", "caveat", "redecide"] = "none"
    """Second pass over the prompts whose verdict was PARTIAL, with the protocol's `again`
    instruction and without a thought: redecide decides again, caveat forces PARTIAL and generates
    the answer with its caveats."""


@dataclass(frozen=True)
class DecisionRule:
    """How the probabilities of the three verdicts become one verdict."""

    verdict_temperature: Annotated[float, tyro.conf.arg(metavar="T"), POSITIVE] = 1.0
    """Temperature scaling of the verdicts' log-probabilities; a run prints the one that fits its
    prompts."""
    refuse_from: Annotated[float | None, tyro.conf.arg(metavar="P"), PROBABILITY] = None
    """Probability threshold of REFUSE: the verdict is REFUSE if P(refuse) is at least P. By default
    the most probable verdict is taken."""
    caution_from: Annotated[float | None, tyro.conf.arg(metavar="P"), PROBABILITY] = None
    """Probability threshold of PARTIAL, needed with --refuse-from: a verdict that is not REFUSE is
    PARTIAL if P(refuse) + P(partial) is at least P, else COMPLY."""
    abstain_below: Annotated[float, tyro.conf.arg(metavar="P"), PROBABILITY] = 0.0
    """Abstain, and show no answer, if the most probable verdict leads the second by less than P."""


@dataclass(frozen=True)
class Interventions:
    """Interventions on the thought and the verdict, and the table of costs."""

    cuts: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N"), Range(0)] = (0, 16, 64)
    """Also truncate each thought to its first N tokens and read the verdict there, for each N; 0 is
    the verdict without a thought."""
    swap: bool = True
    """Also decide after the thought of another prompt (the pair's other prompt, if there is
    one)."""
    force: bool = True
    """Also force each of the three verdicts, whatever was decided, and generate the answer that
    follows it."""
    cost_rounds: Annotated[int, tyro.conf.arg(metavar="N"), Range(0, 1000)] = 1
    """Timed runs of each program for the table of costs; 0 omits the table."""


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
