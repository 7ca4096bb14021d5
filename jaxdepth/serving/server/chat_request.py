"""The body of POST /v1/chat/completions: every field is understood, or refused by its name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import nearest, visible
from jaxdepth.serving.server.failures import Failure, invalid

# Fields that this server has one value for; another one is refused. None is always fine.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "parallel_tool_calls": (),
    "logprobs": (False,),
    "top_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}
_ABOUT_CALLERS = ("user", "safety_identifier", "prompt_cache_key")  # change no answer
_READ: tuple[str, ...] = ("model", "messages", "max_tokens", "max_completion_tokens", "seed")
_READ += ("temperature", "top_p", "stream", "stream_options")


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks for."""

    messages: list
    max_tokens: int | None
    seed: int | None
    streams: bool
    include_usage: bool


def read_request(body: bytes, model: str, sampling: Sampling) -> ChatRequest:
    """Read a request.

    Args:
        body: JSON.
        model: the name that the server's model has.
        sampling: the server's.

    Raises:
        Failure: the body is no JSON object, or names the field that is wrong.
    """
    try:
        fields = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise invalid("the body is not valid JSON") from None
    if not isinstance(fields, dict):
        raise invalid("the body is no JSON object")
    fields = {name: value for name, value in fields.items() if value is not None}
    _check_names(fields)
    for name in ("model", "messages"):
        if name not in fields:
            raise invalid(f"{name} is missing", name)
    if fields["model"] != model:
        message = f"model is {_short(fields['model'])}, expected {model!r}, the only one here"
        raise Failure(404, message, "model_not_found", "model")
    for name, own in (("temperature", sampling.temperature), ("top_p", sampling.top_p or 1.0)):
        given = fields.get(name, own)
        if not _is_number(given) or given != own:
            raise invalid(
                f"{name} is {_short(given)}, but this server samples at {own:g} alone: leave it "
                "out, or start the server with another",
                name,
            )
    limits = {_integer(fields, name) for name in ("max_tokens", "max_completion_tokens")} - {None}
    if len(limits) > 1:
        raise invalid("max_tokens and max_completion_tokens differ: give one", "max_tokens")
    max_tokens = next(iter(limits), None)
    if max_tokens is not None and max_tokens < 1:
        raise invalid(f"max_tokens is {max_tokens}, expected 1 or more", "max_tokens")
    return ChatRequest(
        messages=_messages(fields["messages"]),
        max_tokens=max_tokens,
        seed=_integer(fields, "seed"),
        streams=_boolean(fields, "stream", "stream"),
        include_usage=_includes_usage(fields),
    )


def _check_names(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in _READ or (name in _ABOUT_CALLERS and isinstance(value, str)):
            continue
        if name in _ABOUT_CALLERS:
            raise invalid(f"{name} is {_short(value)}, expected a string", name)
        if name not in _ONLY:
            known = (*_READ, *_ONLY, *_ABOUT_CALLERS)
            raise invalid(f"unknown field {_short(name)}{nearest(name, known)}", visible(name)[:40])
        # `==` alone takes True for 1 and False for 0.
        if not any(value == one and type(value) in _alike(one) for one in _ONLY[name]):
            only = " or ".join(json.dumps(one) for one in _ONLY[name])
            rest = f"expected {only}" if only else "which this server does not support"
            raise invalid(f"{name} is {_short(value)}, {rest}: leave it out", name)


def _alike(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) is int else (type(value),)


def _messages(messages: object) -> list:
    """Messages with their parts of text joined, and without fields that hold nothing."""
    if not isinstance(messages, list):
        raise invalid(f"messages is {_short(messages)}, expected a list", "messages")
    read: list = []
    for n, message in enumerate(messages):
        if isinstance(message, dict):
            message = {name: value for name, value in message.items() if value is not None}
            if isinstance(message.get("content"), list):
                message["content"] = _joined(message["content"], f"messages[{n}]")
        read.append(message)
    return read


def _joined(parts: list, where: str) -> str:
    texts = []
    for part in parts:
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise invalid(f"{where}: content has a part that is no text; only text is", "messages")
        texts.append(part["text"])
    return "\n".join(texts)


def _includes_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage"}:
        message = f"stream_options is {_short(options)}, expected include_usage alone"
        raise invalid(message, "stream_options")
    if options and not fields.get("stream"):
        raise invalid("stream_options is only for stream=true", "stream_options")
    return _boolean(options, "include_usage", "stream_options")


def _boolean(fields: Mapping[str, Any], name: str, param: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name} is {_short(value)}, expected true or false", param)
    return value


def _integer(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and type(value) is not int:
        raise invalid(f"{name} is {_short(value)}, expected an integer", name)
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    """A value of the client's, for a message to it."""
    text = visible(repr(value))
    return text if len(text) <= 40 else f"{text[:40]}..."


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and infinities are no JSON
