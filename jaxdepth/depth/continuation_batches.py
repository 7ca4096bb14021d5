"""Batches of continuations in which rows of one prefix meet, and little is padding."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxdepth.errors import at_least
from jaxdepth.model import Ints

QUERIES = 512  # of a continuation that attend at once: the scores of all would take memory
_PREFIX_MULTIPLE, _MULTIPLE = 16, 8
_TOKENS = 8192  # in one batch, about: fewer long prefixes, or long continuations, run at once


class ScoringBatch(NamedTuple):
    """Continuations, or parts of them, that one pass scores."""

    indices: tuple[int, ...]  # of the continuations
    prefix_ZS: Int[np.ndarray, "Z S"]  # right-padded
    length_Z: Int[np.ndarray, " Z"]
    tokens_NT: Int[np.ndarray, "N T"]  # continuations without their last tokens, right-padded
    prefix_N: Int[np.ndarray, " N"]
    place_P: Int[np.ndarray, " P"]  # where tokens are predicted: see `continuation._score`
    target_PC: Int[np.ndarray, "P C"]  # the tokens there: those that begin a prefix's rows
    block: int  # places that are read at once
    blocks: int  # how many of those are no padding
    # Of each continuation: the place of each of its tokens, their columns there, and the tokens.
    read_at: tuple[tuple[Ints, Ints, Ints], ...]


class _Group(NamedTuple):
    """Rows that continue one prefix, in one batch."""

    prefix: Ints
    rows: list[int]


def make_scoring_batches(
    prefixes: Sequence[Ints],
    continuations: Sequence[Ints],
    prefix_of: Sequence[int],
    batch_size: int,
    block: int,
    whole: Callable[[int], int] = lambda rows: rows,
) -> list[ScoringBatch]:
    """Batches of at most `batch_size` continuations with prefixes of similar length.

    Empty continuations are in none. Batches of one shape follow each other, so that few programs
    compile.

    Args:
        prefixes: token ids of each prefix.
        continuations: token ids of each continuation.
        prefix_of: the index of each continuation's prefix.
        batch_size: the maximum of continuations in a batch.
        block: the maximum of places that are read at once.
        whole: a number of rows rounded up to what devices can share.
    """
    at_least(1, batch_size=batch_size)
    buckets: dict[tuple[int, int], list[_Group]] = {}
    for prefix, rows in _groups(continuations, prefix_of, batch_size).items():
        for start in range(0, len(rows), batch_size):
            group = _Group(prefixes[prefix], rows[start : start + batch_size])
            longest = max(len(continuations[n]) for n in group.rows) - 1
            shape = _token_bucket(longest), _prefix_bucket(len(group.prefix))
            buckets.setdefault(shape, []).append(group)
    batches = []
    for (T, S), groups in sorted(buckets.items()):
        limits = [max(1, min(batch_size, _TOKENS // max(n, 1))) for n in (T, S)]
        parts = list(_packed(groups, *limits))
        # All batches of a bucket have one shape.
        Z = whole(_size(max(len(part) for part in parts)))
        N = whole(_size(max(sum(len(group.rows) for group in part) for part in parts)))
        places = [_places(part, continuations, Z, T) for part in parts]
        P = max(len(targets) for targets, _ in places)
        C = _size(max(len(tokens) for targets, _ in places for tokens in targets.values()))
        size = whole(min(block, _size(P)))
        for part, (targets, read_at) in zip(parts, places, strict=True):
            indices = tuple(n for group in part for n in group.rows)
            tokens = [continuations[n][:-1] for n in indices]
            owners = [z for z, group in enumerate(part) for _ in group.rows]
            batches.append(
                ScoringBatch(
                    indices,
                    _padded([group.prefix for group in part], Z, S),
                    _padded([[len(group.prefix) for group in part]], 1, Z)[0],
                    _padded(tokens, N, T),
                    _padded([owners], 1, N)[0],
                    _padded([list(targets)], 1, -(-P // size) * size)[0],
                    _padded(list(targets.values()), -(-P // size) * size, C),
                    size,
                    -(-len(targets) // size),
                    read_at,
                )
            )
    return batches


def _groups(
    continuations: Sequence[Ints], prefix_of: Sequence[int], batch_size: int
) -> dict[int, list[int]]:
    """The continuations of each prefix that are not empty; of many, similar ones are together."""
    groups: dict[int, list[int]] = {}
    for n, prefix in enumerate(prefix_of):
        if len(continuations[n]):
            groups.setdefault(prefix, []).append(n)
    for rows in groups.values():
        if len(rows) > batch_size:
            rows.sort(key=lambda n: len(continuations[n]))
    return groups


def _packed(groups: Sequence[_Group], rows: int, prefixes: int) -> Iterator[list[_Group]]:
    """Fill batches of some rows and prefixes at most with whole groups; large ones are divided."""
    batch: list[_Group] = []
    for group in groups:
        for start in range(0, len(group.rows), rows):
            part = _Group(group.prefix, group.rows[start : start + rows])
            count = sum(len(other.rows) for other in batch) + len(part.rows)
            if batch and (count > rows or len(batch) == prefixes):
                yield batch
                batch = []
            batch.append(part)
    if batch:
        yield batch


def _places(
    groups: Sequence[_Group], continuations: Sequence[Ints], Z: int, T: int
) -> tuple[dict[int, list[int]], tuple[tuple[Ints, Ints, Ints], ...]]:
    """Where the tokens of a batch are predicted, with the tokens there; and where each row looks.

    A row's first token is predicted at the end of its prefix, once for all rows that it begins.
    """
    targets: dict[int, list[int]] = {}
    number: dict[int, int] = {}  # of each place in the order of the keys of `targets`
    read_at = []
    row = 0
    for z, group in enumerate(groups):
        for n in group.rows:
            tokens, at, columns = [int(t) for t in continuations[n]], [], []
            for t, token in enumerate(tokens):
                place = z if t == 0 else Z + row * T + t - 1
                number.setdefault(place, len(number))
                here = targets.setdefault(place, [])
                if token not in here:
                    here.append(token)
                at.append(number[place])
                columns.append(here.index(token))
            read_at.append((np.array(at), np.array(columns), np.array(tokens)))
            row += 1
    return targets, tuple(read_at)


def _padded(sequences: Sequence[Ints], count: int, length: int) -> Int[np.ndarray, "N T"]:
    padded = np.zeros((count, length), np.int32)
    for row, tokens in enumerate(sequences):
        padded[row, : len(tokens)] = tokens
    return padded


def _size(count: int) -> int:
    """A count rounded up by at most a quarter, so that few programs compile."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


def _prefix_bucket(length: int) -> int:
    return max(1, _size(-(-length // _PREFIX_MULTIPLE))) * _PREFIX_MULTIPLE


def _token_bucket(length: int) -> int:
    if length <= 4:
        return (0, 1, 2, 4, 4)[length]
    if length > QUERIES:
        return -(-length // QUERIES) * QUERIES
    return _size(-(-length // _MULTIPLE)) * _MULTIPLE
