"""Prefetching: a worker thread prepares the next item while the current one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` of every item in order, always computing one ahead."""
    with worker_thread() as worker:
        current = None
        for item in items:
            following = worker.submit(function, item)
            if current is not None:
                yield current.result()
            current = following
        if current is not None:
            yield current.result()


@contextmanager
def worker_thread() -> Iterator[ThreadPoolExecutor]:
    """One thread; work that it has not begun is cancelled when the block ends."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
