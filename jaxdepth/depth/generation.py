"""Generate at many exits at once, in batches that fit a memory budget.

A lane is one sequence that is decoded: prompt x exit x sample. `jaxdepth.generate` decides how many
lanes run at once; `depth.decode` runs them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key

from jaxdepth.depth.decode import (
    DecodedLanes,
    LaneOrder,
    LaneState,
    advance_lanes,
    decode,
    prefill,
    start_lanes,
)
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.lanes import Plan, memory, plan_segments
from jaxdepth.depth.sampling import Sampler, Sampling, TokenSampler, lane_keys
from jaxdepth.errors import InputError, at_least
from jaxdepth.model import AnyArray, Ints
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import rows_of, shard, to_host

# Bytes that decoding may take besides the parameters, by default.
DEFAULT_BUDGET = 2 * 2**30

# Tokens that lanes decode between two looks at whether they have ended.
LOOK_EVERY = 16

Exit = TypeVar("Exit")


class Generation(NamedTuple):
    """The tokens that every exit decoded; 0 beyond a lane's length."""

    tokens: Int[np.ndarray, "B E *M T"]
    lengths: Int[np.ndarray, "B E *M"]  # the end token counts
    finite: Bool[np.ndarray, "B E *M"]  # False: logits were NaN or infinite, the last token is none


def generate(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    exits: Ints,
    max_new_tokens: int,
    *,
    samples: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seeds_B: Ints | None = None,
    stop_tokens: Ints = (),
    has_ended: Callable[[list[int]], bool] | None = None,
    segments: int | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> Generation:
    """Decode every prompt at every exit.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        exits: which exits, in any order, each 1..L.
        max_new_tokens: T, the maximum per lane.
        samples: lanes per prompt and exit, M; None means one, without the axis M.
        sampling: greedy by default.
        seeds_B: a seed per prompt; a lane's random numbers depend on it, the exit and the sample
            alone, not on the rest of the batch. By default 0..B-1.
        stop_tokens: token ids that end a lane; by default none does.
        has_ended: whether a lane with these tokens needs no more, such as one with a stop string.
            It is asked every `LOOK_EVERY` tokens; what a lane decodes until then is returned.
        segments: how many segments of layers the staircase has; chosen by default.
        memory_budget: bytes that caches and logits may take on a device; prompts, then samples,
            then exits are split into batches that fit.

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
    generation = Generation(
        np.zeros((B, E, M, T), np.int32), np.zeros((B, E, M), np.int32), np.ones((B, E, M), bool)
    )
    sampler = TokenSampler.of(sampling, stop_tokens)

    def bytes_of(prompts: int, part: Sequence[int], samples: int) -> int:
        plan, itemsize = _plan(part, segments), model.embed[...].dtype.itemsize
        shape = prompts, tokens_BS.shape[1], T, samples, itemsize
        return memory(model.config, plan, *shape, model.mesh).total

    for batch in split(bytes_of, exits, B, M, memory_budget, model.mesh):
        rows, batch_exits = batch.padded_rows, [exits[e] for e in batch.exits]
        decoded = _generate_batch(
            model,
            tokens_BS[rows],
            lengths_B[rows],
            batch_exits,
            T,
            sampler,
            lane_keys(seeds_B[rows], batch_exits, batch.samples),
            _plan(batch_exits, segments),
            has_ended,
        )
        batch.write(generation, decoded)
    if samples:
        return generation
    return Generation(*(array[:, :, 0] for array in generation))


def _generate_batch(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    exits: Ints,
    max_new_tokens: int,
    sampler: Sampler,
    keys_EMB: Key[Array, "E M B"],
    plan: Plan,
    has_ended: Callable[[list[int]], bool] | None,
) -> tuple[Int[np.ndarray, "E M B T"], Int[np.ndarray, "E M B"], Bool[np.ndarray, "E M B"]]:
    """Prefill and decode one batch: what `Generation` holds, in the order of the exits."""
    order, samples = LaneOrder(exits), keys_EMB.shape[1]
    lengths_B = shard(np.asarray(lengths_B, np.int32), "B", model.mesh)
    tokens_BS = shard(tokens_BS, "BS", model.mesh)
    cache, picked_EBD = prefill(model, tokens_BS, lengths_B, order.exits_E, plan[-1].last)
    picked_XBD = jnp.repeat(picked_EBD, samples, axis=0)
    lane_inputs = np.repeat(order.exits_E, samples), order.to_lanes(keys_EMB), sampler
    decoded: DecodedLanes | LaneState
    if has_ended is None:
        decoded = decode(
            model, cache, picked_XBD, lengths_B, *lane_inputs,
            plan=plan, samples=samples, max_new_tokens=max_new_tokens,
        )  # fmt: skip
    else:
        state = start_lanes(
            model, picked_XBD, *lane_inputs,
            plan=plan, samples=samples, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        for until in range(LOOK_EVERY, max_new_tokens + LOOK_EVERY, LOOK_EVERY):
            state = advance_lanes(
                state, model, cache, lengths_B, *lane_inputs, jnp.int32(until),
                plan=plan, samples=samples,
            )  # fmt: skip
            done_XB = _look(state, has_ended)
            if done_XB.all():
                break
            state = state._replace(done_XB=shard(done_XB, "XB", model.mesh))
        decoded = state
    lanes = decoded.tokens_XBT, decoded.lengths_XB, decoded.sampler_state
    tokens_EMBT, lengths_EMB, finite_EMB = map(order.to_exits, lanes)
    return tokens_EMBT, lengths_EMB, finite_EMB


def _look(state: LaneState, has_ended: Callable[[list[int]], bool]) -> Bool[np.ndarray, "X B"]:
    """Which lanes have ended: by themselves, or with the tokens that they have."""
    arrays = (state.tokens_XBT, state.lengths_XB, state.done_XB)
    tokens_XBT, lengths_XB, done_XB = map(np.array, map(to_host, arrays))
    for place in zip(*np.nonzero(~done_XB), strict=True):
        done_XB[place] = has_ended(tokens_XBT[place][: lengths_XB[place]].tolist())
    return done_XB


class LaneBatch(NamedTuple):
    """A batch of lanes that run at once, by indices into all prompts, exits and samples."""

    rows: Int[np.ndarray, " rows"]  # prompts
    padded_rows: Int[np.ndarray, " B"]  # the same, and repeated ones as padding rows
    exits: list[int]  # or rules, or draft depths
    samples: list[int]

    def write(self, whole: Iterable[np.ndarray], batch_EMB: Iterable[np.ndarray]) -> None:
        """Write arrays (E, M, B, ...) of this batch into arrays (B, E, M, ...) of all lanes."""
        index = np.ix_(self.rows, np.array(self.exits), np.array(self.samples))
        for array, part in zip(whole, batch_EMB, strict=True):
            array[index] = np.moveaxis(part, 2, 0)[: len(self.rows)]


def split(
    bytes_of: Callable[[int, Sequence[Exit], int], int],
    exits: Sequence[Exit],
    prompts: int,
    samples: int,
    budget: int,
    mesh: Mesh | None = None,
) -> list[LaneBatch]:
    """Split lanes into batches of one number of prompts that fit the budget of a device.

    So one program serves all batches. Prompts are split first, because they share no memory.

    Args:
        bytes_of: bytes that a number of prompts, some exits and a number of samples take.
        exits: exits, rules or draft depths.
        prompts: how many prompts there are.
        samples: how many samples of each exit.
        budget: bytes, of each device.
        mesh: the devices.

    Raises:
        InputError: a single lane does not fit.
    """
    indices, B, M = list(range(len(exits))), prompts, samples
    devices = rows_of(mesh)
    prompts = -(-prompts // devices)  # of one device

    def max_bytes(parts):
        return max(bytes_of(prompts, [exits[e] for e in part], samples) for part in parts)

    while prompts > 1 and max_bytes([indices]) > budget:
        prompts = -(-prompts // 2)
    while samples > 1 and max_bytes([indices]) > budget:
        samples = -(-samples // 2)
    size = len(indices)
    parts = [indices]
    while size > 1 and max_bytes(parts) > budget:
        size = -(-size // 2)
        parts = [indices[i : i + size] for i in range(0, len(indices), size)]
    needed = max_bytes(parts)
    if needed > budget:
        raise InputError(
            f"one lane needs {needed:,} bytes of caches and logits, the memory budget is "
            f"{budget:,}: shorten prompts or answers, or raise it"
        )
    size = prompts * devices
    batches = [np.arange(B)[b : b + size] for b in range(0, B, size)]
    return [
        LaneBatch(rows, np.resize(rows, size), part, list(range(M))[m : m + samples])
        for rows in batches
        for part in parts
        for m in range(0, M, samples)
    ]


def _plan(exits: Sequence[int], segments: int | None) -> Plan:
    return plan_segments(exits, min(segments, max(exits)) if segments else None)


def _check(
    model: Mistral,
    exits: list[int],
    max_new_tokens: int,
    samples: int | None,
    length: int,
    segments: int | None,
) -> None:
    if not exits:
        raise InputError("no exits: name at least one")
    check_exits(exits, model.config.num_hidden_layers)
    at_least(1, max_new_tokens=max_new_tokens, samples=samples)
    if segments is not None:
        plan_segments(exits, segments)
    check_room(model.config, length, max_new_tokens)


def check_room(config: ModelConfig, length: int, new_tokens: int) -> None:
    """Raise InputError if prompts of a length with new tokens are longer than the model allows."""
    limit = config.max_position_embeddings
    if length + new_tokens > limit:
        raise InputError(
            f"a prompt has {length} tokens, with {new_tokens} new ones more than the {limit} that "
            "this model takes: shorten prompts or answers"
        )
