"""What stands around all endpoints: names of the host, and no error without a line of JSON."""

import logging
import traceback
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxdepth.serving.server.failures import Failure, internal_error

log = logging.getLogger("jaxdepth.serving")


class Guard:
    """Refuses foreign host names, and logs faults without what a user or a model wrote."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None):
        """Wrap an application.

        Args:
            app: the endpoints.
            hosts: names by which clients may call this server; None allows all. A web page that
                lets its own name point to this machine would otherwise reach the model.
        """
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if not self._knows(scope):
            failure = Failure(403, "this server is called by another name: use its address")
            return await to_response(failure)(scope, receive, send)
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # its reply is sent by then; its message may quote a text
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("a request failed: %s\n%s", type(error).__name__, frames)

    def _knows(self, scope: Scope) -> bool:
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        try:
            host = urlsplit(f"//{named}").hostname
        except ValueError:
            host = None
        return self._hosts is None or host in self._hosts


def to_response(failure: Failure) -> JSONResponse:
    """The reply that says why there is no answer."""
    return JSONResponse(failure.body, failure.status, failure.headers)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    return to_response(error)


async def _no_endpoint(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: "no such path", 405: "no such method here"}.get(error.status_code, error.detail)
    return to_response(Failure(error.status_code, message, None, None, dict(error.headers or {})))


async def _nobody_reads(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _internal(request: Request, error: Exception) -> Response:
    return to_response(internal_error())


HANDLERS = {
    Failure: _failed,
    HTTPException: _no_endpoint,
    ClientDisconnect: _nobody_reads,
    Exception: _internal,
}
