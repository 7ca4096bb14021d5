"""Requests of several exits meet in one batch."""

import threading

import pytest

from jaxdepth.benchmarks.inspect.queue import Batch, ExitQueue, Request, choose_batch
from jaxdepth.depth.sampling import Sampling


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("jaxdepth.benchmarks.inspect.queue._QUIET_SECONDS", 0.05)


def request(*ids: int, max_tokens: int = 4, temperature: float = 0.0) -> Request:
    return Request(ids, max_tokens, False, Sampling(temperature), (), 0)


class Recorder:
    """Answers `ids@exit`, and keeps the batches; it waits until it may."""

    def __init__(self):
        self.batches: list[Batch] = []
        self.may_answer = threading.Event()
        self.queue = ExitQueue(self)

    def __call__(self, batch: Batch) -> list[list[str]]:
        self.may_answer.wait(10)
        self.batches.append(batch)
        return [[f"{r.ids}@{e}" for e in batch.exits] for r in batch.requests]


@pytest.fixture
def recorder():
    recorder = Recorder()
    recorder.queue.exits = {2, 4}
    yield recorder
    recorder.may_answer.set()


def test_rows_that_all_exits_ask_for_are_one_batch(recorder):
    rows = [request(n) for n in range(5)]
    futures = [(r, e, recorder.queue.submit(r, e)) for e in (4, 2) for r in rows]
    recorder.may_answer.set()
    for r, e, future in futures:
        assert future.result(10) == f"{r.ids}@{e}"
    assert [(len(b.requests), b.exits) for b in recorder.batches] == [(5, [2, 4])]


def test_what_one_exit_asks_for_is_decoded_at_that_exit(recorder):
    futures = [recorder.queue.submit(request(n), 2) for n in range(3)]
    other = recorder.queue.submit(request(9), 4)
    recorder.may_answer.set()
    assert [f.result(10) for f in futures] == ["(0,)@2", "(1,)@2", "(2,)@2"]
    assert other.result(10) == "(9,)@4"
    assert [(len(b.requests), b.exits) for b in recorder.batches] == [(3, [2]), (1, [4])]


def test_complete_rows_come_first_and_the_rest_may_still_be_completed(recorder):
    lonely = recorder.queue.submit(request(1), 2)
    futures = [recorder.queue.submit(request(2), e) for e in (2, 4)]
    recorder.may_answer.set()
    assert [f.result(10) for f in futures] == ["(2,)@2", "(2,)@4"]
    assert lonely.result(10) == "(1,)@2"
    assert [b.exits for b in recorder.batches] == [[2, 4], [2]]


def test_equal_requests_are_answered_once(recorder):
    futures = [recorder.queue.submit(request(7), e) for e in (2, 2, 4, 4)]
    recorder.may_answer.set()
    assert [f.result(10) for f in futures] == ["(7,)@2", "(7,)@2", "(7,)@4", "(7,)@4"]
    assert [len(b.requests) for b in recorder.batches] == [1]


def test_batches_have_rows_of_equal_settings_and_similar_length():
    short, long, near = request(1), request(*range(30)), request(1, 2)
    others = [request(1, max_tokens=5), request(1, temperature=1.0)]
    waiting = {r: {2: [], 4: []} for r in (short, long, *others, near)}
    assert choose_batch(waiting, {2, 4}, 2) == Batch([short, near], [2, 4])
    assert choose_batch(waiting, {2, 4}, 9) == Batch([short, near, long], [2, 4])
    assert choose_batch({}, {2, 4}, 9) is None


def test_a_full_batch_does_not_wait(recorder, monkeypatch):
    monkeypatch.setattr("jaxdepth.benchmarks.inspect.queue._QUIET_SECONDS", 60)
    recorder.queue.batch_size = 2
    recorder.may_answer.set()
    futures = [recorder.queue.submit(request(n), e) for n in range(2) for e in (2, 4)]
    assert all(f.result(10) for f in futures)


def test_a_cancelled_request_is_given_up(recorder):
    kept, dropped = (recorder.queue.submit(request(n), 2) for n in range(2))
    assert dropped.cancel()
    recorder.may_answer.set()
    assert kept.result(10) == "(0,)@2"
    # The thread has ended; the next request starts another.
    assert recorder.queue.submit(request(5), 4).result(10) == "(5,)@4"
    assert [r.ids for b in recorder.batches for r in b.requests] == [(0,), (5,)]


def test_an_error_reaches_all_who_wait_and_the_queue_goes_on(recorder):
    def fail(batch):
        if batch.exits == [2]:
            raise RuntimeError("no")
        return [["fine"]]

    queue = ExitQueue(fail)
    futures = [queue.submit(request(n), 2) for n in range(2)]
    for future in futures:
        with pytest.raises(RuntimeError, match="no"):
            future.result(10)
    assert queue.submit(request(1), 3).result(10) == "fine"


def test_answers_are_counted(recorder):
    counts = []
    recorder.queue.report = lambda answered, asked: counts.append((answered, asked))
    recorder.queue.batch_size = 1
    futures = [recorder.queue.submit(request(n), e) for n in range(2) for e in (2, 4)]
    recorder.may_answer.set()
    assert all(f.result(10) for f in futures)
    recorder.queue.submit(request(8), 2).result(10)
    assert counts[:2] == [(2, 4), (4, 4)]
