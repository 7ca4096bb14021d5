"""A server of a responder on a free port of this machine, and plain requests to it."""

import dataclasses
import http.client
import json
import threading
import time
from contextlib import contextmanager

from jaxdepth.serving.responder import Responder
from jaxdepth.serving.server.listen import LOCAL_NAMES, bind, build_server
from jaxdepth.serving.settings import Listening

NAME = "tiny"
PATIENCE = 300  # seconds: on a busy machine a program takes long to compile


@contextmanager
def served(responder: Responder, **listening):
    """A running server: its port. It is told to end at the end of the block."""
    settings = Listening(port=0, **({"timeout": 600.0} | listening))
    listener = bind(settings)
    server = build_server(responder, NAME, settings, {*LOCAL_NAMES})
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def wait_until(condition, seconds: float = PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def request(port, method, path, body=None, headers=None):
    """Status, headers and body of a reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    kind = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request(method, path, body, kind | (headers or {}))
        reply = connection.getresponse()
        return reply.status, dict(reply.headers), reply.read()
    finally:
        connection.close()


def complete(port, body: dict | bytes, **headers):
    """Status and JSON of a reply to a request for a completion."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, reply = request(port, "POST", "/v1/chat/completions", body, headers)
    return status, json.loads(reply)


def metric(port, name: str) -> float:
    """The value of a metric, or of the sum over its labels."""
    text = request(port, "GET", "/metrics")[2].decode()
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


class Gated(Responder):
    """A responder whose batches wait at a gate, and may be made to fail."""

    def __init__(self, responder: Responder):
        for field in dataclasses.fields(Responder):
            object.__setattr__(self, field.name, getattr(responder, field.name))
        object.__setattr__(self, "gate", threading.Event())
        object.__setattr__(self, "fault", None)
        object.__setattr__(self, "batches", [])

    def run(self, chats, step_tokens=1):
        self.batches.append(len(chats))
        while not self.gate.wait(0.02):  # a step in which nothing is decoded
            yield [None] * len(chats)
        if self.fault is not None:
            raise self.fault
        yield from super().run(chats, step_tokens)

    def fail_with(self, fault: Exception | None):
        object.__setattr__(self, "fault", fault)
