"""The queue of chats, and the one thread that runs JAX: it takes as many chats as it has lanes."""

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jaxdepth.serving.responder import Chat, NonFinite, Responder, Response
from jaxdepth.serving.server.failures import (
    Failure,
    internal_error,
    non_finite,
    queue_full,
    shutting_down,
)
from jaxdepth.serving.server.metrics import Metrics

_GATHER_SECONDS = 0.01  # waited for more chats before a batch that is not full starts

log = logging.getLogger("jaxdepth.serving")


@dataclass(eq=False)
class Job:
    """A chat in the queue or in a lane."""

    chat: Chat
    emit: Callable[[Response | Failure], None]  # called from the thread that runs JAX
    streams: bool  # whether responses that are not finished are sent, too
    queued_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    sent: int | None = None  # characters of the text so far; None before the verdict
    finished: bool = False

    def offer(self, response: Response | None, metrics: Metrics) -> None:
        """Send what is new in a response."""
        if response is None or self.finished or self.cancelled:
            return
        seconds = time.monotonic() - self.queued_at
        if self.sent is None:
            metrics.to_verdict.observe(seconds)
        if response.finish:
            self.finished = True
            metrics.to_finish.observe(seconds)
            metrics.finish(response)
            self.emit(response)
        elif self.streams and (self.sent is None or len(response.text) > self.sent):
            self.emit(response)
        self.sent = len(response.text)

    def fail(self, failure: Failure) -> None:
        """Send that there will be no response."""
        if not self.finished and not self.cancelled:
            self.finished = True
            self.emit(failure)


class LanesQueue:
    """Chats that wait for a lane, in the order in which they came."""

    def __init__(self, responder: Responder, max_waiting: int, metrics: Metrics):
        self._responder, self._max_waiting, self._metrics = responder, max_waiting, metrics
        self._lanes = responder.settings.responding.lanes
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._batch_seconds = 1.0  # of recent batches
        self._thread = threading.Thread(target=self._run, name="jaxdepth lanes", daemon=True)
        metrics.lanes.set(self._lanes)
        metrics.waiting.set_function(lambda: len(self._waiting))
        metrics.lanes_busy.set_function(lambda: len(self._running))

    def start(self) -> None:
        """Begin to take chats from the queue."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether chats are still taken from the queue."""
        return self._thread.is_alive() and not self._closing

    def check_room(self) -> None:
        """Raise Failure if no more chats may wait, or none is taken any more."""
        if not self.is_alive:
            raise shutting_down()
        if len(self._waiting) >= self._max_waiting:
            batches = 1 + len(self._waiting) / self._lanes
            raise queue_full(max(1, math.ceil(batches * self._batch_seconds)))

    def submit(
        self, chat: Chat, emit: Callable[[Response | Failure], None], *, streams: bool
    ) -> Job:
        """Queue a chat; `emit` is called in another thread.

        Raises:
            Failure: as `check_room`.
        """
        job = Job(chat, emit, streams)
        with self._changed:
            self.check_room()
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Give a chat up: it leaves the queue, or its lane ends at the next look at it."""
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self, seconds: float = 30.0) -> None:
        """Take no more chats, and fail those that are not finished."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while jobs := self._next_batch():
            self._running = jobs
            started = time.monotonic()
            self._metrics.batches.inc()
            self._answer(jobs)
            self._running = []
            seconds = time.monotonic() - started
            self._batch_seconds += (seconds - self._batch_seconds) / 4

    def _next_batch(self) -> list[Job]:
        """Wait for chats; none if the queue is closed."""
        with self._changed:
            while not self._closing:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                end = time.monotonic() + _GATHER_SECONDS
                while not self._closing and len(self._waiting) < self._lanes:
                    if not self._changed.wait(max(0.0, end - time.monotonic())):
                        break
                # None are left if all that waited have been given up.
                if self._waiting and not self._closing:
                    count = min(self._lanes, len(self._waiting))
                    return [self._waiting.popleft() for _ in range(count)]
            left = list(self._waiting)
            self._waiting.clear()
        for job in left:
            job.fail(shutting_down())
        return []

    def _answer(self, jobs: list[Job]) -> None:
        """Decode a batch; a fault in it ends the batch and not the thread."""
        failure = internal_error()
        try:
            running = self._responder.run([job.chat for job in jobs])
            responses = next(running)
            while True:
                for job, response in zip(jobs, responses, strict=True):
                    if isinstance(response, NonFinite):
                        job.fail(non_finite())
                    else:
                        job.offer(response, self._metrics)
                if self._closing:
                    failure = shutting_down()
                    break
                responses = running.send(np.array([job.cancelled for job in jobs]))
        except StopIteration:
            pass
        except Exception as error:
            # Its message may quote what a model wrote, so only its kind and place are logged.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("a batch failed: %s\n%s", type(error).__name__, frames)
        for job in jobs:
            job.fail(failure)
