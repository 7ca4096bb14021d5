"""Reading ahead: the next piece of work in a thread, while this one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def ahead(work: Callable, items: Iterable) -> Iterator:
    """`work(item)` for every item, in order; one is always being made while another is used."""
    with one_thread() as thread:
        ready = None
        for item in items:
            following = thread.submit(work, item)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()


@contextmanager
def one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread whose waiting work is dropped when the block ends early."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
