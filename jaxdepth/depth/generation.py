"""Generation at many exits at once, split so that it fits.

A lane is one decode stream: prompt x exit x sample. `jaxdepth.generate` says how many lanes run at
once; `depth.decode` runs them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxdepth.depth.decode import run_lanes
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.lanes import Plan, memory, plan_segments
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.depth.talk import Speak
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import rows_of

# What decoding may hold besides the weights, if the caller does not say.
DEFAULT_BUDGET = 2 * 2**30


class Generation(NamedTuple):
    """What every exit said. Positions from a lane's length on hold 0."""

    tokens: Int[np.ndarray, "B E *M T"]
    lengths: Int[np.ndarray, "B E *M"]  # the end token counts


def generate(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exits: Sequence[int],
    max_new_tokens: int,
    *,
    samples: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seeds_B: Sequence[int] | None = None,
    stop_tokens: Sequence[int] = (),
    segments: int | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> Generation:
    """Decodes every prompt at every exit.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        exits: which exits, in any order, each 1..L.
        max_new_tokens: the most tokens that a lane says, T.
        samples: lanes per prompt and exit, M; None means one and leaves out the axis.
        sampling: greedy by default.
        seeds_B: a seed per prompt; a lane's draws depend on it, the exit and the sample alone, not
            on what else is in the batch. By default 0..B-1.
        stop_tokens: token ids that end a lane, besides none.
        segments: how many segments of layers the staircase has; chosen by default.
        memory_budget: bytes that caches and logits may hold on a device; prompts, then samples,
            then exits are split so that they do.

    Returns:
        Tokens and lengths as numpy arrays, in the order of `exits`.

    Raises:
        InputError: an argument is out of range, or one lane alone exceeds the budget.
    """
    check_tokens(model, tokens_BS, lengths_B)
    exits = [int(e) for e in exits]
    _check(model, exits, max_new_tokens, samples, np.shape(tokens_BS)[1], segments)
    tokens_BS, lengths_B = np.asarray(tokens_BS), np.asarray(lengths_B)
    B, E, M, T = len(lengths_B), len(exits), samples or 1, max_new_tokens
    seeds_B = np.arange(B) if seeds_B is None else np.asarray(seeds_B)
    said = Generation(np.zeros((B, E, M, T), np.int32), np.zeros((B, E, M), np.int32))
    talk = Speak.of(sampling, stop_tokens)

    def bytes_of(prompts: int, part: Sequence[int], samples: int) -> int:
        plan, itemsize = _plan(part, segments), model.embed[...].dtype.itemsize
        shape = prompts, tokens_BS.shape[1], T, samples, itemsize
        return memory(model.config, plan, *shape, model.mesh).total

    for group in split(bytes_of, exits, B, M, memory_budget, model.mesh):
        rows, full, places, chosen = group
        part = [exits[p] for p in places]
        keys = lane_keys(seeds_B[full], part, chosen)
        plan = _plan(part, segments)
        found = run_lanes(model, tokens_BS[full], lengths_B[full], part, T, talk, keys, plan)
        index = np.ix_(rows, places, chosen)
        said.tokens[index] = np.moveaxis(found.tokens, 2, 0)[: len(rows)]
        said.lengths[index] = np.moveaxis(found.lengths, 2, 0)[: len(rows)]
    return said if samples else Generation(said.tokens[:, :, 0], said.lengths[:, :, 0])


class Group(NamedTuple):
    """Lanes that run at once."""

    rows: Int[np.ndarray, " b"]  # which prompts
    full: Int[np.ndarray, " B"]  # the same, and repeated ones that fill the batch
    places: list[int]  # which exits, by their places
    samples: list[int]


def split(
    bytes_of: Callable[[int, Sequence[int], int], int],
    exits: Sequence[int],
    prompts: int,
    samples: int,
    budget: int,
    mesh: Mesh | None = None,
) -> list[Group]:
    """Batches that fit the budget of every device, all of as many prompts: one program serves all.

    Prompts are split first: they share nothing. `bytes_of` says what some prompts, exits and
    samples of each need. Raises InputError if one lane does not fit.
    """
    every, B, M = list(range(len(exits))), prompts, samples
    devices = rows_of(mesh)
    prompts = -(-prompts // devices)  # of one device

    def worst_of(parts):
        return max(bytes_of(prompts, [exits[p] for p in part], samples) for part in parts)

    while prompts > 1 and worst_of([every]) > budget:
        prompts = -(-prompts // 2)
    while samples > 1 and worst_of([every]) > budget:
        samples = -(-samples // 2)
    size = len(every)
    parts = [every]
    while size > 1 and worst_of(parts) > budget:
        size = -(-size // 2)
        parts = [every[i : i + size] for i in range(0, len(every), size)]
    worst = worst_of(parts)
    if worst > budget:
        raise InputError(
            f"one lane needs {worst:,} bytes of caches and logits, the memory budget is "
            f"{budget:,}: shorten prompts or answers, or raise it"
        )
    size = prompts * devices
    batches = [np.arange(B)[b : b + size] for b in range(0, B, size)]
    return [
        Group(rows, np.resize(rows, size), part, list(range(M))[m : m + samples])
        for rows in batches
        for part in parts
        for m in range(0, M, samples)
    ]


def _plan(exits: Sequence[int], segments: int | None) -> Plan:
    return plan_segments(exits, min(segments, max(exits)) if segments else None)


def _check(model, exits, max_new_tokens, samples, length, segments) -> None:
    if not exits:
        raise InputError("no exits: name at least one")
    for exit in exits:
        check_exits(exit, model.config.num_hidden_layers)
    at_least(1, max_new_tokens=max_new_tokens, samples=samples)
    if segments is not None:
        plan_segments(exits, segments)
    check_room(model.config, length, max_new_tokens)


def check_room(config: ModelConfig, length: int, new_tokens: int) -> None:
    """Raises InputError if prompts of that length and new tokens are more than a model takes."""
    limit = config.max_position_embeddings
    if length + new_tokens > limit:
        raise InputError(
            f"a prompt has {length} tokens, with {new_tokens} new ones more than the {limit} that "
            "this model takes: shorten prompts or answers"
        )
