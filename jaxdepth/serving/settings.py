"""Settings of answering chats, as a function and over HTTP."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxdepth.ranges import COUNT, POSITIVE, SEED, Range
from jaxdepth.study.settings import AdaptedModel, Devices
from jaxdepth.study.verdicts.settings import DecisionRule


@dataclass(frozen=True)
class Responding:
    """The exit, the protocol, and how much is decoded at once. A lane is one chat's reply."""

    exit: Annotated[int | None, tyro.conf.arg(metavar="EXIT"), COUNT] = None
    """Exit that thinks, decides and answers: how many layers run before the final norm and head. By
    default all layers."""
    protocol: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The instruction, the markers around a thought and the verdict words: prompted (any instruct
    model), tuned (special tokens of a tuned model), or a TOML file. By default tuned for an adapter
    that brings special tokens, else prompted."""
    thought_tokens: Annotated[int | None, tyro.conf.arg(metavar="N"), Range(0)] = None
    """Maximum tokens of a thought, in place of the protocol's; 0 decides at once."""
    answer_tokens: Annotated[int | None, tyro.conf.arg(metavar="N"), Range(0)] = None
    """Maximum tokens of a visible answer, in place of the protocol's."""
    max_prompt_tokens: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """Maximum tokens of a chat in its template, with the protocol's instruction. By default 1024,
    or what the model has room for."""
    lanes: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 8
    """Chats that are decoded at once."""
    temperature: Annotated[float, tyro.conf.arg(metavar="T"), Range(0)] = 0.0
    """Sampling temperature; 0 decodes greedily."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="K"), COUNT] = None
    """Sample among the K most probable tokens."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="P"), Range(0, 1, open_low=True)] = None
    """Sample among the smallest set of tokens with probability mass P (nucleus sampling)."""
    seed: Annotated[int, tyro.conf.arg(metavar="SEED"), SEED] = 0
    """Seed of sampling for a chat that comes with none."""
    memory_gb: Annotated[float, tyro.conf.arg(metavar="GB"), POSITIVE] = 2.0
    """Memory for KV caches and logits on each device, in GiB."""


@dataclass(frozen=True, kw_only=True)
class Respond:
    """What answers chats."""

    model: AdaptedModel
    responding: Responding = Responding()
    decision: DecisionRule = DecisionRule()
    devices: Devices = Devices()


@dataclass(frozen=True)
class Listening:
    """The address, and limits on what clients may ask for."""

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs --allow-remote."""
    port: Annotated[int, tyro.conf.arg(metavar="PORT"), Range(0, 65_535)] = 8000
    """Port to listen on; 0 takes a free one."""
    allow_remote: bool = False
    """Let other machines use the model. There is no encryption and no password."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the model for clients; by default that of its folder."""
    max_waiting: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 64
    """Requests that may wait for a lane; more are refused with status 429."""
    max_body_kib: Annotated[int, tyro.conf.arg(metavar="KIB"), COUNT] = 1024
    """Maximum size of a request's body, in KiB."""
    timeout: Annotated[float, tyro.conf.arg(metavar="SECONDS"), POSITIVE] = 120.0
    """Maximum time of a request, waiting included; after it the request is refused with status
    504."""


@dataclass(frozen=True, kw_only=True)
class Serve(Respond):
    """Serve a model that decides before it answers: an OpenAI-compatible server of chats."""

    listening: Listening = Listening()
