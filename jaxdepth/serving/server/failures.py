"""Why a request gets no answer, in the form that OpenAI's clients read."""

from dataclasses import dataclass, field


@dataclass
class Failure(Exception):
    """An error reply: one message for people, and what programs tell errors apart by."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None  # the field of the request that is wrong
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict:
        """The JSON of the reply."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Failure:
    """A request that is wrong, and would be wrong a second time."""
    return Failure(400, message, code, param)


def queue_full(seconds: int) -> Failure:
    """Too many requests wait; `seconds` is when to try again."""
    message = f"too many requests are waiting: try again in {seconds} s"
    return Failure(429, message, "queue_full", None, {"Retry-After": str(seconds)})


def shutting_down() -> Failure:
    """The server ends before the answer does."""
    return Failure(503, "the server is shutting down", "shutting_down")


def internal_error() -> Failure:
    """A fault of the server; its log says more."""
    return Failure(500, "internal error", "internal_error", None, _ONCE)


def non_finite() -> Failure:
    """The model has no answer to a chat, and would have none a second time."""
    message = (
        "the model has no answer to this chat, because its activations are NaN or infinite: the "
        "server needs --dtype float32, or another checkpoint"
    )
    return Failure(500, message, "non_finite", None, _ONCE)


def too_slow(seconds: float) -> Failure:
    """The answer was not finished in time."""
    message = f"not answered within {seconds:g} s: ask for fewer tokens, or try again later"
    return Failure(504, message, "timeout", None, _ONCE)


_ONCE = {"x-should-retry": "false"}  # OpenAI's clients would send the same request again at once
