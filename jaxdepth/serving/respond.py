"""`jaxdepth.respond`: a verdict and a visible answer for each chat."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.serving.responder import (
    STEP_TOKENS,
    Chat,
    NonFinite,
    Responder,
    Response,
    build_responder,
)
from jaxdepth.serving.settings import Respond
from jaxdepth.settings_file import build

Messages = Sequence[Mapping[str, str]]


def open_responder(model: str | Path, **settings) -> Responder:
    """Load a model that decides before it answers, for `respond` and `stream_response`.

    Args:
        model: a checkpoint made by `jaxdepth convert`.
        settings: as the options of `jaxdepth serve` up to the address, such as `exit`, `adapter`,
            `protocol`, `lanes`.

    Raises:
        InputError: something in the settings, the protocol, the adapter or the checkpoint is wrong.
    """
    return build_responder(build(Respond, {"model": model, **settings}, "respond"))


def respond(
    responder: Responder,
    messages: Messages | Sequence[Messages],
    *,
    max_tokens: int | None = None,
    seeds: int | Sequence[int] | None = None,
) -> Response | list[Response]:
    """Decide on chats, and answer them: what the model thinks before its verdict is left out.

    Args:
        responder: from `open_responder`.
        messages: one chat, a list of {"role": ..., "content": ...}; or a list of chats. Roles are
            system (first, if any), user and assistant by turns; the user's message is last.
        max_tokens: maximum length of a visible answer; by default the protocol's.
        seeds: of sampling, for all chats or one for each; by default that of the responder.

    Returns:
        A response, or a list of as many as there are chats. A chat's response does not depend on
        the others.

    Raises:
        InputError: names the message or the number that is wrong.
        NonFinite: activations are NaN or infinite.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError("messages: expected a chat, or a list of chats")
    if isinstance(messages[0], Mapping):
        given = seeds if isinstance(seeds, int) or seeds is None else seeds[0]
        return _respond(responder, [responder.chat(messages, max_tokens, given)])[0]
    each = [seeds] * len(messages) if isinstance(seeds, int) or seeds is None else list(seeds)
    if len(each) != len(messages):
        raise InputError(f"{len(each)} seeds for {len(messages)} chats: give one for each")
    return _respond(
        responder,
        [responder.chat(m, max_tokens, seed) for m, seed in zip(messages, each, strict=True)],
    )


def _respond(responder: Responder, chats: Sequence[Chat]) -> list[Response]:
    """Responses to any number of chats, those of similar length together."""
    order = sorted(range(len(chats)), key=lambda n: len(chats[n].ids))
    responses: dict[int, Response] = {}
    lanes = responder.settings.responding.lanes
    for start in range(0, len(order), lanes):
        batch = order[start : start + lanes]
        for so_far in responder.run([chats[n] for n in batch], step_tokens=10 * STEP_TOKENS):
            for n, response in zip(batch, so_far, strict=True):
                if isinstance(response, NonFinite):
                    raise response
                if response is not None and response.finish is not None:
                    responses.setdefault(n, response)
    return [responses[n] for n in range(len(chats))]


def stream_response(
    responder: Responder,
    messages: Messages,
    *,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> Iterator[Response]:
    """Answer one chat piece by piece, from the verdict on.

    Args:
        responder: as for `respond`.
        messages: one chat, as for `respond`.
        max_tokens: as for `respond`.
        seed: of sampling; by default that of the responder.

    Yields:
        Responses whose `text` is what is new; the texts of all are that of `respond`. The first
        comes as soon as the verdict is decided, and its text may be empty. `finish` is None in all
        but the last.

    Raises:
        InputError: names the message or the number that is wrong.
        NonFinite: activations are NaN or infinite.
    """
    chat = responder.chat(messages, max_tokens, seed)
    return _pieces(responder, chat)


def _pieces(responder: Responder, chat: Chat) -> Iterator[Response]:
    sent = None
    for (response,) in responder.run([chat]):
        if isinstance(response, NonFinite):
            raise response
        if response is None:
            continue
        if sent is None or response.finish or len(response.text) > sent:
            yield piece_after(response, sent or 0)
            sent = len(response.text)
        if response.finish:
            return


def piece_after(response: Response, sent: int) -> Response:
    """A response whose text is what comes after the first `sent` characters."""
    return replace(response, text=response.text[sent:])
