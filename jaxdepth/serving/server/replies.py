"""Completions and their chunks, as OpenAI's clients read them, with the verdict in `jaxdepth`."""

import json
import secrets
import time
from typing import Any

from jaxdepth.serving.responder import Response


class Reply:
    """One completion: its id and model, and the JSON of its parts."""

    def __init__(self, model: str):
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, response: Response) -> dict[str, Any]:
        """A completion that does not stream."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": response.text, "refusal": None},
            "logprobs": None,
            "finish_reason": response.finish,
            "jaxdepth": decision(response),
        }
        kind = {"object": "chat.completion"}
        return self._head | kind | {"choices": [choice], "usage": usage(response)}

    def chunk(self, piece: Response, *, is_first: bool) -> dict[str, Any]:
        """A chunk of a stream; the first has the role, and every one the verdict."""
        delta = {"role": "assistant"} if is_first else {}
        if piece.text or is_first:
            delta["content"] = piece.text
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": piece.finish,
            "jaxdepth": decision(piece),
        }
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, last: Response) -> dict[str, Any]:
        """The chunk after the last, where a client asks for the usage."""
        head = self._head | {"object": "chat.completion.chunk", "choices": []}
        return head | {"usage": usage(last)}


def decision(response: Response) -> dict[str, Any]:
    """The extra field of a choice."""
    return {
        "verdict": str(response.verdict),
        "probabilities": response.probabilities,
        "exit": response.exit,
    }


def usage(response: Response) -> dict[str, int]:
    """Tokens of the prompt, and of the visible answer: those before the verdict are not told."""
    prompt, answer = response.prompt_tokens, response.visible_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
