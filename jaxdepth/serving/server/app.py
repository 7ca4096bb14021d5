"""The endpoints: chat completions, models, health and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.responses import Response as HTTPResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from jaxdepth.errors import InputError
from jaxdepth.serving.respond import piece_after
from jaxdepth.serving.responder import Responder, Response, TooLong
from jaxdepth.serving.server.chat_request import ChatRequest, read_request
from jaxdepth.serving.server.failures import Failure, invalid, too_slow
from jaxdepth.serving.server.guard import HANDLERS, Guard, to_response
from jaxdepth.serving.server.lanes_queue import Job, LanesQueue
from jaxdepth.serving.server.metrics import Metrics
from jaxdepth.serving.server.replies import DONE, Reply, event

_DISCARDED = 8  # times the largest body: read and discarded, so that its sender sees the reply


@dataclass(frozen=True)
class Limits:
    """What clients may ask for."""

    max_waiting: int
    max_body_bytes: int
    timeout: float  # seconds


def build_app(
    responder: Responder, name: str, limits: Limits, hosts: Collection[str] | None = None
) -> ASGIApp:
    """The ASGI application that answers chats.

    Args:
        responder: the model.
        name: the model's, for clients.
        limits: what clients may ask for.
        hosts: as for `Guard`.
    """
    metrics = Metrics()
    queue = LanesQueue(responder, limits.max_waiting, metrics)
    endpoints = Endpoints(responder, name, limits, queue, metrics)

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        queue.start()
        try:
            yield
        finally:
            await asyncio.to_thread(queue.close)

    routes = [
        Route("/v1/chat/completions", endpoints.complete, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{model:path}", endpoints.model),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.metrics_text),
    ]
    app = Starlette(routes=routes, lifespan=running, exception_handlers=HANDLERS)
    return Guard(app, hosts)


class Endpoints:
    """The functions behind the paths."""

    def __init__(
        self, responder: Responder, name: str, limits: Limits, queue: LanesQueue, metrics: Metrics
    ):
        self._responder, self._name, self._limits = responder, name, limits
        self._queue, self._metrics = queue, metrics
        self._started = int(time.time())

    async def models(self, request: Request) -> JSONResponse:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> JSONResponse:
        """GET /v1/models/NAME."""
        if request.path_params["model"] != self._name:
            raise Failure(404, f"expected {self._name!r}, the only model here", "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict:
        kind = {"object": "model", "created": self._started, "owned_by": "jaxdepth"}
        return {"id": self._name, **kind}

    async def health(self, request: Request) -> JSONResponse:
        """GET /health."""
        alive = self._queue.is_alive
        return JSONResponse({"status": "ok" if alive else "down"}, 200 if alive else 503)

    async def metrics_text(self, request: Request) -> HTTPResponse:
        """GET /metrics."""
        return HTTPResponse(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def complete(self, request: Request) -> HTTPResponse:
        """POST /v1/chat/completions."""
        try:
            reply = await self._complete(request)
        except Failure as failure:
            reply = to_response(failure)
        except ClientDisconnect:
            self._metrics.given_up.inc()
            raise
        self._metrics.requests.labels(str(reply.status_code)).inc()
        return reply

    async def _complete(self, request: Request) -> HTTPResponse:
        deadline = asyncio.get_running_loop().time() + self._limits.timeout
        try:
            async with asyncio.timeout_at(deadline):
                exchange = await self._submit(request)
                try:
                    first = await exchange.first(request)
                except BaseException:
                    self._queue.cancel(exchange.job)
                    raise
        except TimeoutError:
            raise too_slow(self._limits.timeout) from None
        reply = Reply(self._name)
        if not exchange.asked.streams:
            return JSONResponse(reply.whole(first))
        body = self._stream(exchange, first, reply, deadline)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)

    async def _submit(self, request: Request) -> "_Exchange":
        """Read a request, and queue its chat."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which no foreign web page can send without asking first
            raise Failure(415, "the body's type is not application/json", "unsupported_media_type")
        body = await _read_body(request, self._limits.max_body_bytes)
        asked = read_request(body, self._name, self._responder.sampling)
        self._queue.check_room()
        try:
            chat = await asyncio.to_thread(
                self._responder.chat, asked.messages, asked.max_tokens, asked.seed
            )
        except TooLong as error:
            raise invalid(str(error), "messages", "context_length_exceeded") from None
        except InputError as error:
            name = str(error).partition(" ")[0]
            param = name if name in ("max_tokens", "seed") else "messages"
            raise invalid(str(error), param) from None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Response | Failure]()

        def emit(item: Response | Failure) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, item)

        job = self._queue.submit(chat, emit, streams=asked.streams)
        return _Exchange(asked, job, events)

    async def _stream(
        self, exchange: "_Exchange", first: Response, reply: Reply, deadline: float
    ) -> AsyncIterator[bytes]:
        """Server-sent events: the verdict and the visible text, as they come."""
        response, is_left = first, True
        try:
            yield event(reply.chunk(response, is_first=True))
            while not response.finish:
                sent = len(response.text)
                async with asyncio.timeout_at(deadline):
                    response = await exchange.next()
                yield event(reply.chunk(piece_after(response, sent), is_first=False))
            if exchange.asked.include_usage:
                yield event(reply.usage_chunk(response))
            yield DONE
            is_left = False
        except TimeoutError:
            is_left = False
            yield event(too_slow(self._limits.timeout).body)
        except Failure as failure:
            is_left = False
            yield event(failure.body)
        finally:
            if is_left:
                self._metrics.given_up.inc()
            self._queue.cancel(exchange.job)


@dataclass(frozen=True)
class _Exchange:
    """A request, its chat in the queue, and what comes back."""

    asked: ChatRequest
    job: Job
    events: asyncio.Queue[Response | Failure]

    async def next(self) -> Response:
        """The next response; raises Failure if there will be none."""
        item = await self.events.get()
        if isinstance(item, Failure):
            raise item
        return item

    async def first(self, request: Request) -> Response:
        """The first response; raises ClientDisconnect if the client goes away before."""
        response = asyncio.ensure_future(self.next())
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({response, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not response.done():
                raise ClientDisconnect
            return response.result()
        finally:
            for task in (response, gone):
                task.cancel()
            await asyncio.gather(response, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request; raises Failure if it is too large."""
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= max_bytes:
            body += part
        elif size > _DISCARDED * max_bytes:
            break
    if size > max_bytes:
        raise Failure(413, f"the body has more than {max_bytes:,} bytes", "body_too_large")
    return bytes(body)
