"""What Inspect asks of a model: messages and settings are understood, or refused by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import ChatMessage, ContentText, GenerateConfig
from inspect_ai.tool import ToolInfo

from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError, at_least
from jaxdepth.prompts.conversation import Message, read_messages

_READ = ("max_tokens", "temperature", "top_p", "top_k", "stop_seqs", "seed")
# What Inspect itself sees to, and what is about connections, retries and tools: no answer of a
# local model without tools depends on it.
_OF_INSPECT: tuple[str, ...] = ("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout")
_OF_INSPECT += ("max_connections", "adaptive_connections", "system_message", "cache", "batch")
_OF_INSPECT += ("cache_prompt", "max_tool_output", "internal_tools", "parallel_tool_calls")
_OF_INSPECT += ("reasoning_history", "fail_on_refusal")
# What only some models can be asked for; every provider passes over it where its model cannot.
_OF_INSPECT += ("reasoning_effort", "reasoning_tokens", "reasoning_mode", "reasoning_summary")
_OF_INSPECT += ("effort", "verbosity")
# Values that ask for nothing.
_NOTHING: Mapping[str, Any] = {
    "num_choices": 1,
    "best_of": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "logit_bias": {},
}


@dataclass(frozen=True)
class Wanted:
    """How an answer is asked for."""

    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...]
    seed: int


def read_config(config: GenerateConfig, max_tokens: int) -> Wanted:
    """Read Inspect's settings of generation. Without a temperature decoding is greedy.

    Args:
        config: the settings.
        max_tokens: where they name none.

    Raises:
        InputError: names the setting that is not supported, or out of range.
    """
    given = config.model_dump(exclude_none=True)
    for name, value in given.items():
        if name in _READ or name in _OF_INSPECT or value == _NOTHING.get(name, ...):
            continue
        raise InputError(f"{name} is {value!r}, which jaxdepth does not support: leave it out")
    stops = tuple(config.stop_seqs or ())
    if any(not stop for stop in stops):
        raise InputError("stop_seqs holds an empty text, which would end every answer")
    wanted = max_tokens if config.max_tokens is None else config.max_tokens
    at_least(1, max_tokens=wanted)
    sampling = Sampling(config.temperature or 0.0, config.top_k, config.top_p)
    return Wanted(wanted, sampling, stops, config.seed or 0)


def read_chat(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo] = ()) -> list[Message]:
    """Read Inspect's messages: text alone, perhaps a system message, then user and assistant.

    Raises:
        InputError: names the message, or what is not supported.
    """
    if tools:
        raise InputError(
            f"the task offers the tool {tools[0].name!r}: jaxdepth's models answer in text alone, "
            "choose a task without tools"
        )
    read = [
        {"role": message.role, "content": _text(message, f"messages[{n}]")}
        for n, message in enumerate(messages)
    ]
    return read_messages(read)


def _text(message: ChatMessage, where: str) -> str:
    if message.role == "tool" or getattr(message, "tool_calls", None):
        raise InputError(f"{where}: tools are not supported, choose a task without them")
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if not isinstance(part, ContentText):
            raise InputError(f"{where}: content of type {part.type!r}; only text is supported")
    return "\n".join(part.text for part in message.content if isinstance(part, ContentText))
