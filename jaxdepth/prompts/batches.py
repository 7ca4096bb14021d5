"""Prompts of like length together, so that few programs compile and little is padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jaxdepth.errors import at_least
from jaxdepth.model.sharding import whole_rows
from jaxdepth.prompts.datasets import Prompt


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, right-padded together."""

    prompts: tuple[int, ...]  # their places in the list of all prompts
    tokens_BS: np.ndarray
    lengths_B: np.ndarray

    @property
    def places(self) -> tuple[int, ...]:
        """The place of every row, those that only fill the batch included."""
        fill = len(self.lengths_B) - len(self.prompts)
        return self.prompts + self.prompts[:1] * fill


def limit_prompts(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    """The first `limit` prompts, the halves of a pair counting as one and staying together."""
    if limit is None:
        return prompts
    at_least(1, limit=limit)
    kept = list(dict.fromkeys(p.cluster for p in prompts))[:limit]
    keep = set(kept)
    return [p for p in prompts if p.cluster in keep]


def make_batches(ids: Sequence[Sequence[int]], size: int, mesh: Mesh | None = None) -> list[Batch]:
    """Prompts of like length together, each batch padded to the same number of rows.

    Rows that only fill a batch repeat its first prompt, so that one program serves all batches of
    a length, and so that the mesh divides them. Which prompts are together does not depend on it.
    """
    return list(_make_batches(ids, size, whole_rows(size, mesh)))


def _make_batches(ids, size: int, full: int) -> Iterator[Batch]:
    buckets: dict[int, list[int]] = {}
    for place, tokens in enumerate(ids):
        buckets.setdefault(bucket_length(len(tokens)), []).append(place)
    for length, places in sorted(buckets.items()):
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            rows = chosen + chosen[:1] * (full - len(chosen))
            tokens_BS = np.zeros((full, length), np.int32)
            for row, place in enumerate(rows):
                tokens_BS[row, : len(ids[place])] = ids[place]
            lengths_B = np.array([len(ids[place]) for place in rows], np.int32)
            yield Batch(tuple(chosen), tokens_BS, lengths_B)


def bucket_length(length: int, step: int = 16) -> int:
    """The padded length for a prompt: the next multiple of `step`, so that few programs compile."""
    return -(-length // step) * step
