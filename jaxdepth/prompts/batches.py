"""Batches of prompts of similar length, so that few programs compile and little is padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxdepth.errors import at_least
from jaxdepth.model.sharding import whole_rows
from jaxdepth.prompts.datasets import Prompt

_MAX_PADDED = 64  # rows to which batches of fewer prompts are padded


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, right-padded together."""

    indices: tuple[int, ...]  # of its prompts in the list of all prompts
    tokens_BS: Int[np.ndarray, "B S"]
    lengths_B: Int[np.ndarray, " B"]

    @property
    def padded_indices(self) -> tuple[int, ...]:
        """The index of every row; padding rows repeat the first prompt."""
        fill = len(self.lengths_B) - len(self.indices)
        return self.indices + self.indices[:1] * fill


def limit_indices(prompts: Sequence[Prompt], limit: int | None) -> list[int]:
    """The indices of the prompts that `limit_prompts` keeps."""
    kept = {prompt.prompt_id for prompt in limit_prompts(list(prompts), limit)}
    return [index for index, prompt in enumerate(prompts) if prompt.prompt_id in kept]


def limit_prompts(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    """The first `limit` clusters of prompts: both prompts of a pair count as one."""
    if limit is None:
        return prompts
    at_least(1, limit=limit)
    kept = set(list(dict.fromkeys(p.cluster_id for p in prompts))[:limit])
    return [p for p in prompts if p.cluster_id in kept]


def make_batches(
    ids: Sequence[Sequence[int]],
    size: int,
    mesh: Mesh | None = None,
    *,
    chosen: Sequence[int] | None = None,
    room: int = 0,
    longest: int | None = None,
) -> list[Batch]:
    """Batches of at most `size` prompts of similar length, shortest first.

    Every batch has the same number of rows, rounded up so that the mesh divides it. Padding rows
    repeat the first prompt of a batch, so that one program serves all batches of a length. Which
    prompts share a batch does not depend on the mesh.

    Args:
        ids: the token ids of every prompt.
        size: of a batch.
        mesh: of the devices that share a batch.
        chosen: indices of the prompts that are batched; by default all.
        room: padding that each has at least, so that prompts that become longer by as many tokens
            fit the same programs.
        longest: what the model takes: no row is padded to more.
    """
    buckets: dict[int, list[int]] = {}
    for index in range(len(ids)) if chosen is None else chosen:
        length = len(ids[index])
        padded = bucket_length(length + room)
        padded = padded if longest is None else max(length, min(padded, longest))
        buckets.setdefault(padded, []).append(index)
    # A size far above the number of prompts would fill the memory with padding rows.
    rows = whole_rows(min(size, max(_MAX_PADDED, *map(len, buckets.values()))), mesh)
    batches = []
    for length, indices in sorted(buckets.items()):
        for start in range(0, len(indices), size):
            together = indices[start : start + size]
            tokens_BS = np.zeros((rows, length), np.int32)
            lengths_B = np.zeros(rows, np.int32)
            for row, index in enumerate(together + together[:1] * (rows - len(together))):
                tokens_BS[row, : len(ids[index])] = ids[index]
                lengths_B[row] = len(ids[index])
            batches.append(Batch(tuple(together), tokens_BS, lengths_B))
    return batches


def bucket_length(length: int, step: int = 16) -> int:
    """The padded length of a prompt: the next multiple of `step`, so that few programs compile."""
    return -(-length // step) * step
