"""Runs a test on many damaged sources, within limits of time and memory, and names one that fails.

Every mutant has a number of its own, from which all that is random about it follows.
"""

import random
import resource
import shutil
import signal
from contextlib import contextmanager

from jaxdepth import InputError
from jaxdepth.study.inspection.inspect import format_lines, inspect
from jaxdepth.weights.convert import convert

SEED = 20261123
SECONDS = 10  # for one mutant; most take a hundredth of one
MEGABYTES = 400  # of memory that all mutants of a test may add


class Late(BaseException):
    """A mutant that takes too long; no `except Exception` may take it for another error."""


@contextmanager
def limits():
    """Too long a time ends the block."""

    def late(number, frame):
        raise Late(f"took longer than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refusal(work):
    """What `work` refused in one clear line, or None if it did not."""
    try:
        with limits():
            work()
    except InputError as error:
        text = str(error)
        assert "\n" not in text
        assert 20 < len(text) < 600, text
        return text
    return None


def refused_conversion(source, target):
    """What a conversion refused, leaving nothing behind; None if it was done.

    What can be converted can be described before, and what is refused is described or refused.
    """
    place = target.parent
    before = {p.name for p in place.iterdir()}
    described = refusal(lambda: format_lines(source, inspect(source)))
    message = refusal(lambda: convert(source, target))
    if message is not None:
        assert {p.name for p in place.iterdir()} == before
        return message
    assert described is None, described
    assert {p.name for p in place.iterdir()} == before | {target.name}
    return None


def fuzz(kind, count, tmp_path, one):
    """Runs `one` on so many mutants; names the one that fails. How many were refused.

    Args:
        kind: a name, on which the mutants depend.
        count: of mutants.
        tmp_path: a folder.
        one: takes a folder of its own, a random generator, and a list for what it has damaged.
    """
    refused, start = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        rng, place = random.Random(f"{SEED} {kind} {number}"), tmp_path / str(number)
        place.mkdir()
        done = []
        try:
            refused += one(place, rng, done) is not None
        except BaseException as error:
            error.add_note(f"mutant {number} of {kind}, seed {SEED}: {done}")
            raise
        shutil.rmtree(place)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    print(f"{count} mutants of {kind}, seed {SEED}: {refused} refused, {added:.0f} MB more memory")
    assert added < MEGABYTES
    return refused
