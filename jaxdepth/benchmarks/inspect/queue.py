"""Requests of several runs, each at its own exit, meet here and are decoded together.

A row is one conversation. The runs of a task ask for the same conversations, so a row is complete
once all exits have asked for it, and complete rows are decoded at all exits at once. Where runs ask
for different ones, as from the second turn on, each exit's rows are decoded at that exit alone.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from jaxdepth.depth.sampling import Sampling

_QUIET_SECONDS = 0.5  # without a new request, after which incomplete rows are decoded, too

A = TypeVar("A")


@dataclass(frozen=True)
class Request:
    """A conversation to be answered, whatever the exit."""

    ids: tuple[int, ...]  # up to where the reply begins
    max_tokens: int  # for which the model has room
    is_shortened: bool  # whether more were asked for
    sampling: Sampling
    stops: tuple[str, ...]  # texts that end the answer, and are left out of it
    seed: int  # of this answer; 0 where none is used


Waiting = dict[Request, dict[int, list["Future[A]"]]]


class Batch(NamedTuple):
    """Rows that are decoded at some exits in one program."""

    requests: list[Request]
    exits: list[int]


class ExitQueue(Generic[A]):
    """Requests that wait for their answers; a thread answers them while there are any."""

    def __init__(self, answer: Callable[[Batch], Sequence[Sequence[A]]]):
        """Take what answers a batch: for each request its answer at each exit."""
        self._answer = answer
        self._waiting: Waiting[A] = {}
        self._changed = threading.Condition()
        self._is_running = False
        self._coming = 0
        self.batch_size = 16  # rows
        self.exits: Collection[int] = ()  # that run together
        self.answered = 0
        self.report: Callable[[int, int], None] = lambda answered, asked: None

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Let a batch that is not full wait while a request is prepared in the block."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1

    def submit(self, request: Request, exit_layer: int) -> "Future[A]":
        """Ask for the answer of an exit to a conversation; a cancelled future is given up."""
        future: Future[A] = Future()
        with self._changed:
            self._waiting.setdefault(request, {}).setdefault(exit_layer, []).append(future)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="jaxdepth exits", daemon=True).start()
            self._changed.notify()
        return future

    def _run(self) -> None:
        while batch := self._next_batch():
            futures = self._take(batch)
            try:
                answers = self._answer(batch)
            except Exception as error:
                for future in _flat(futures):
                    future.set_exception(error)
                continue
            for by_exit, of_request in zip(futures, answers, strict=True):
                for waiting, answer in zip(by_exit, of_request, strict=True):
                    for future in waiting:
                        future.set_result(answer)
            self._report(sum(1 for _ in _flat(futures)))

    def _next_batch(self) -> Batch | None:
        """Wait until a batch is full, or no request comes any more; None: nothing waits."""
        with self._changed:
            self._drop_cancelled()
            if not self._waiting:
                self._is_running = False
                return None
            while len(self._complete()) < self.batch_size:
                if not self._changed.wait(_QUIET_SECONDS) and not self._coming:
                    break
            self._drop_cancelled()
            return choose_batch(self._waiting, self.exits, self.batch_size) or self._next_batch()

    def _report(self, count: int) -> None:
        """Count answers, and report them against all that were asked for so far."""
        with self._changed:
            waiting = sum(len(fs) for by_exit in self._waiting.values() for fs in by_exit.values())
            self.answered += count
        self.report(self.answered, self.answered + waiting)

    def _complete(self) -> list[Request]:
        return complete_rows(self._waiting, self.exits)

    def _take(self, batch: Batch) -> list[list[list["Future[A]"]]]:
        """Take the futures of a batch from those that wait; those that are cancelled are left out.

        A request that comes after this waits for the next batch.
        """
        with self._changed:
            taken = []
            for request in batch.requests:
                by_exit = self._waiting[request]
                futures = [by_exit.pop(e) for e in batch.exits]
                taken.append(
                    [[f for f in fs if f.set_running_or_notify_cancel()] for fs in futures]
                )
                if not by_exit:
                    del self._waiting[request]
            return taken

    def _drop_cancelled(self) -> None:
        for request, by_exit in list(self._waiting.items()):
            for exit_layer, futures in list(by_exit.items()):
                if all(future.cancelled() for future in futures):
                    del by_exit[exit_layer]
            if not by_exit:
                del self._waiting[request]


def complete_rows(waiting: Waiting, exits: Collection[int]) -> list[Request]:
    """The rows for which all exits that run together have asked."""
    together = frozenset(exits)
    return [r for r, by_exit in waiting.items() if together and by_exit.keys() >= together]


def choose_batch(waiting: Waiting, exits: Collection[int], size: int) -> Batch | None:
    """The batch to decode next: rows of similar length and equal settings, complete ones first.

    Args:
        waiting: all rows, each with the exits that ask for it.
        exits: those that run together.
        size: maximum number of rows.
    """
    rows, together = complete_rows(waiting, exits), sorted(exits)
    if not rows and waiting:
        together = [next(iter(next(iter(waiting.values()))))]
        rows = [request for request, by_exit in waiting.items() if together[0] in by_exit]
    if not rows:
        return None
    first = rows[0]
    alike = [r for r in rows if (r.max_tokens, r.sampling) == (first.max_tokens, first.sampling)]
    alike.sort(key=lambda r: abs(len(r.ids) - len(first.ids)))
    return Batch(alike[:size], together)


def _flat(futures: Iterable[Iterable[Iterable["Future[A]"]]]) -> Iterable["Future[A]"]:
    return (future for by_exit in futures for waiting in by_exit for future in waiting)
