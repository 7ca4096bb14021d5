"""Requests to an OpenAI-compatible endpoint: retries with backoff, a rate limit, and no redirects.

The key comes from the environment. It is sent to the given address alone (redirects are not
followed) and is never part of a message.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message

from jaxdepth.errors import one_line

KEY_VARIABLES = ("JAXDEPTH_JUDGE_KEY", "OPENAI_API_KEY")
_MAX_BYTES = 2**20  # of a reply that is read
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)


class RequestFailed(Exception):
    """A request that got no reply in the end; the message says why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args, **kwargs) -> None:
        return None


@dataclass
class ChatClient:
    """Chat completions of one model at one address."""

    model: str
    url: str  # up to /v1, without a slash at the end
    timeout: float = 60.0  # seconds a try
    tries: int = 5
    first_wait: float = 1.0  # seconds before the second try; doubled for each after it
    longest_wait: float = 60.0
    per_second: float = 8.0  # requests at most
    sleep: Callable[[float], None] = time.sleep
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _next_start: float = 0.0

    def complete(self, messages: list[dict[str, str]]) -> object:
        """The content of the model's reply at temperature 0.

        Raises:
            RequestFailed: there is none: unreachable, refused, or not in the form of a chat
                completion.
        """
        body = {"model": self.model, "messages": messages, "temperature": 0}
        reply = self._post(f"{self.url}/chat/completions", body)
        try:
            return json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise RequestFailed("its reply is no chat completion") from None

    def _post(self, url: str, body: Mapping) -> bytes:
        """The reply to one request, tried several times where another try may help."""
        wait, reason = self.first_wait, ""
        for attempt in range(self.tries):
            self._keep_to_rate()
            try:
                return self._try(url, body)
            except urllib.error.HTTPError as error:
                with error:
                    reason, retry_after = f"status {error.code}", _seconds(error.headers)
                if error.code not in _RETRIED:
                    raise RequestFailed(reason) from None
            except ValueError:  # its own message would show the key
                raise RequestFailed(
                    "the key or the address has characters that it may not have"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)
                reason, retry_after = one_line(cause if isinstance(cause, Exception) else error), 0
                reason = "it took too long" if isinstance(cause, TimeoutError) else reason
            if attempt + 1 < self.tries:
                jitter = wait * random.uniform(0, 0.25)
                self.sleep(min(max(wait + jitter, retry_after), self.longest_wait))
                wait *= 2
        raise RequestFailed(f"{reason}, {self.tries} times")

    def _try(self, url: str, body: Mapping) -> bytes:
        key = next(filter(None, map(os.environ.get, KEY_VARIABLES)), None)
        headers = {"Content-Type": "application/json", "User-Agent": "jaxdepth"}
        if key:
            headers["Authorization"] = f"Bearer {key.strip()}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(request, timeout=self.timeout) as reply:
            return reply.read(_MAX_BYTES)

    def _keep_to_rate(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 1 / self.per_second
        if start > now:
            self.sleep(start - now)


def _seconds(headers: Message) -> float:
    """The wait that a Retry-After header asks for in seconds; 0 for a date or none."""
    try:
        return max(0.0, float(headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0
