"""Columns that hold a conversation: its system prompt, earlier turns, last message and prefill."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.conversation import read_messages
from jaxdepth.prompts.prompt import Message
from jaxdepth.prompts.sources.columns import ANSWER, PREFILL
from jaxdepth.prompts.sources.rows import is_empty, may_be_prompt

_ROLES = {"system": "system", "developer": "system"}
_ROLES |= dict.fromkeys(("user", "human", "prompter"), "user")
_ROLES |= dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant")
# ShareGPT records chats: what its models said last is the answer that was given.
_SHAREGPT = ("from", "value")
_PAIRS = (("role", "content"), _SHAREGPT)
# Keys of a message that change what is said, however short their values are.
_NOT_TEXT = ("tool_calls", "function_call", "tool_call_id", "images", "image", "audio", "refusal")


class Conversation(NamedTuple):
    """What goes into a prompt."""

    text: str  # the last message of the user
    system: str | None = None
    earlier: tuple[Message, ...] = ()
    prefill: str | None = None


def read_conversation(value: Any, column: str, where: str, last: str | None) -> Conversation:
    """The conversation of a cell.

    Args:
        value: a list of messages with `role` and `content`, or `from` and `value` (ShareGPT); a
            list of one text; or either as JSON.
        column: names it in messages.
        where: the file and the row, for messages.
        last: what the last message is if the assistant wrote it: `answer` (left out) or `prefill`.

    Raises:
        InputError: names what is not understood.
    """
    where = f"{where}, column {column}"
    if isinstance(value, str):
        value = _parse(value, where)
    if hasattr(value, "keys") or not isinstance(value, list | tuple) or not len(value):
        raise InputError(f"{where}: expected a list of messages with role and content")
    if all(isinstance(item, str) for item in value):
        if len(value) > 1:
            raise InputError(
                f"{where} holds {len(value)} turns without the replies between them, which each "
                "exit would give otherwise: keep the first, or write messages with role and content"
            )
        return Conversation(value[0])
    is_chat = all(isinstance(item, Mapping) and set(_SHAREGPT) <= set(item) for item in value)
    messages = [_message(item, f"{where}[{n}]") for n, item in enumerate(value)]
    prefill = None
    if messages[-1]["role"] == "assistant":
        last = last or (ANSWER if is_chat else None)
        if last is None:
            raise InputError(
                f"{where} ends with a message of the assistant: write --columns messages={column}"
                f":last={ANSWER} to leave it out, or last={PREFILL} to have answers begin with it"
            )
        final = messages.pop()["content"]
        prefill = final if last == PREFILL else None
    try:
        read = read_messages(messages)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    system = read.pop(0).content if read[0].role == "system" else None
    return Conversation(read[-1].content, system, tuple(read[:-1]), prefill)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(
            f"{where}: {text[:40]!r} is no list of messages; expected JSON such as "
            '[{"role": "user", "content": "..."}]'
        ) from None


def _message(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise InputError(f"{where} is a {type(item).__name__}, expected an object with role")
    keys = next((pair for pair in _PAIRS if set(pair) <= set(item)), None)
    if keys is None:
        raise InputError(
            f"{where} has the keys {listed(map(str, item))}; expected role and content, or from "
            "and value"
        )
    others = {key: value for key, value in item.items() if key not in keys and not is_empty(value)}
    refused = [key for key, value in others.items() if key in _NOT_TEXT or may_be_prompt(value)]
    if refused:
        raise InputError(f"{where}: {listed(map(str, refused))} is not supported: leave it out")
    said = item[keys[0]]
    role = _ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        raise InputError(f"{where} is by {said!r}; expected one of {listed(_ROLES, 9)}")
    return {"role": role, "content": _content(item[keys[1]], where)}


def _content(value: Any, where: str) -> str:
    """A message's text; a list of parts is joined if all of them are text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} has no text")
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(text, str):
            raise InputError(f"{where} has a part of the type {kind}; only text is supported")
        texts.append(text)
    return "".join(texts)
