"""Generation at many exits at once: one prefill, then all lanes in one compiled loop.

A lane is one decode stream: prompt x exit x sample. Each step reads every layer's weights once for
all lanes; a lane's logits come from the residual stream after its own exit.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.config import ModelConfig
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.lanes import Plan, memory, plan_segments
from jaxdepth.depth.sampling import Sampling, choose, lane_keys
from jaxdepth.errors import InputError
from jaxdepth.model.attention import merge_parts
from jaxdepth.model.cache import (
    LaneCache,
    PromptCache,
    attend_lane,
    attend_prompt,
    attend_self,
    write_step,
)
from jaxdepth.model.mistral import Mistral

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
        memory_budget: bytes that caches and logits may hold; prompts, then samples, then exits are
            split so that they do.

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
    groups = split(model, exits, B, tokens_BS.shape[1], T, M, segments, memory_budget)
    for rows, places, chosen in groups:
        real = len(rows)
        part = [exits[p] for p in places]
        full = np.resize(rows, groups[0][0].size)  # one program for all batches of prompts
        keys = lane_keys(seeds_B[full], part, chosen)
        tokens, lengths = decode_batch(
            model,
            tokens_BS[full],
            lengths_B[full],
            part,
            T,
            keys_EMB=keys,
            sampling=sampling,
            stop_tokens=tuple(stop_tokens),
            plan=plan_segments(part, min(segments, max(part)) if segments else None),
        )
        index = np.ix_(rows, places, chosen)
        said.tokens[index] = np.moveaxis(tokens[:, :, :real], 2, 0)
        said.lengths[index] = np.moveaxis(lengths[:, :, :real], 2, 0)
    return said if samples else Generation(said.tokens[:, :, 0], said.lengths[:, :, 0])


def split(model, exits, B, S, T, M, segments, budget) -> list[tuple[np.ndarray, list, list]]:
    """Batches that fit the budget: prompts, places in `exits`, and samples of each.

    Prompts are split first: they share nothing. Raises InputError if one lane does not fit.
    """
    itemsize = model.embed[...].dtype.itemsize

    def bytes_of(prompts: int, part: list[int], samples: int) -> int:
        chosen = [exits[p] for p in part]
        plan = plan_segments(chosen, min(segments, max(chosen)) if segments else None)
        return memory(model.config, plan, prompts, S, T, samples, itemsize).total

    every, samples, prompts = list(range(len(exits))), M, B
    while prompts > 1 and bytes_of(prompts, every, samples) > budget:
        prompts = -(-prompts // 2)
    while samples > 1 and bytes_of(prompts, every, samples) > budget:
        samples = -(-samples // 2)
    size = len(every)
    parts = [every]
    while size > 1 and max(bytes_of(prompts, p, samples) for p in parts) > budget:
        size = -(-size // 2)
        parts = [every[i : i + size] for i in range(0, len(every), size)]
    worst = max(bytes_of(prompts, p, samples) for p in parts)
    if worst > budget:
        raise InputError(
            f"one lane needs {worst:,} bytes of caches and logits, the memory budget is "
            f"{budget:,}: shorten prompts or answers, or raise it"
        )
    return [
        (np.arange(B)[b : b + prompts], part, list(range(M))[m : m + samples])
        for b in range(0, B, prompts)
        for part in parts
        for m in range(0, M, samples)
    ]


def decode_batch(
    model: Mistral,
    tokens_BS,
    lengths_B,
    exits: Sequence[int],
    max_new_tokens: int,
    *,
    keys_EMB,
    sampling: Sampling,
    stop_tokens: tuple[int, ...],
    plan: Plan,
) -> tuple[np.ndarray, np.ndarray]:
    """One batch that fits: tokens (E, M, B, T) and lengths (E, M, B), in the order of `exits`."""
    order = np.argsort(-np.asarray(exits), kind="stable")  # deep to shallow
    back = np.argsort(order)
    E, M, B = keys_EMB.shape[:3]
    exits_X = jnp.repeat(jnp.asarray(exits, jnp.int32)[order], M)
    lengths_B = jnp.asarray(lengths_B, jnp.int32)
    cache, picked_EBD = prefill(
        model, jnp.asarray(tokens_BS), lengths_B, exits_X[::M], plan[-1].last
    )
    tokens, lengths = decode(
        model,
        cache,
        jnp.repeat(picked_EBD, M, axis=0),
        lengths_B,
        exits_X,
        jnp.asarray(keys_EMB)[order].reshape(E * M, B),
        jnp.asarray(stop_tokens, jnp.int32),
        plan=plan,
        samples=M,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
    )
    tokens = np.asarray(tokens).reshape(E, M, B, max_new_tokens)[back]
    return tokens, np.asarray(lengths).reshape(E, M, B)[back]


@functools.partial(jax.jit, static_argnames="depth")
def prefill(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exits_E: Int[Array, " E"],
    depth: int,
) -> tuple[PromptCache, Float[Array, "E B D"]]:
    """One pass over the prompts: the cache of `depth` layers, and each exit's stream at the end."""
    B, S = tokens_BS.shape
    h_BSD = model.embed_tokens(tokens_BS)
    inputs = model.position_inputs(S)
    last = (jnp.arange(B), lengths_B - 1)

    def layer(carry, i):
        h_BSD, picked_EBD = carry
        h_BSD, (k_BSKH, v_BSKH) = model.layer(i)(h_BSD, *inputs)
        here_E11 = (i + 1 == exits_E)[:, None, None]
        picked_EBD = jnp.where(here_E11, h_BSD[last], picked_EBD)
        return (h_BSD, picked_EBD), (k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2))

    picked_EBD = jnp.full((len(exits_E), B, h_BSD.shape[-1]), jnp.nan, h_BSD.dtype)
    (_, picked_EBD), cache = jax.lax.scan(layer, (h_BSD, picked_EBD), jnp.arange(depth))
    return PromptCache(*cache), picked_EBD


@functools.partial(
    jax.jit,
    static_argnames=("plan", "samples", "max_new_tokens", "sampling"),
)
def decode(
    model: Mistral,
    cache: PromptCache,
    picked_XBD: Float[Array, "X B D"],
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    keys_XB: Array,
    stop_tokens: Int[Array, " stops"],
    *,
    plan: Plan,
    samples: int,
    max_new_tokens: int,
    sampling: Sampling,
) -> tuple[Int[Array, "X B T"], Int[Array, "X B"]]:
    """The loop over new tokens; ends when every lane has ended."""
    X, B, _ = picked_XBD.shape
    c, T = model.config, max_new_tokens
    dtype = picked_XBD.dtype

    def empty(segment):
        layers, streams = segment.last - segment.first, segment.exits * samples
        shape = (layers, streams, B, c.num_key_value_heads, T, c.head_dim)
        return LaneCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def said(picked_XBD, step):
        logits_XBV = model.unembed(picked_XBD)
        return choose(logits_XBV, keys_XB, step, sampling)

    def ends(tokens_XB):
        return (tokens_XB[..., None] == stop_tokens).any(-1)

    first_XB = said(picked_XBD, 0)
    tokens_XBT = jnp.zeros((X, B, T), jnp.int32).at[:, :, 0].set(first_XB)
    state = (
        jnp.int32(0),
        first_XB,
        ends(first_XB),
        tokens_XBT,
        jnp.ones((X, B), jnp.int32),
        tuple(map(empty, plan)),
    )

    def going(state):
        step, _, done_XB, *_ = state
        return (step < T - 1) & ~done_XB.all()

    def advance(state):
        step, last_XB, done_XB, tokens_XBT, spoken_XB, caches = state
        picked_XBD, caches = forward(
            model, cache, caches, last_XB, step, lengths_B, exits_X, plan, samples
        )
        next_XB = jnp.where(done_XB, 0, said(picked_XBD, step + 1))
        tokens_XBT = jax.lax.dynamic_update_slice_in_dim(
            tokens_XBT, next_XB[..., None], step + 1, axis=2
        )
        spoken_XB = spoken_XB + ~done_XB
        return step + 1, next_XB, done_XB | ends(next_XB), tokens_XBT, spoken_XB, caches

    _, _, _, tokens_XBT, spoken_XB, _ = jax.lax.while_loop(going, advance, state)
    return tokens_XBT, spoken_XB


def forward(
    model: Mistral,
    cache: PromptCache,
    caches: tuple[LaneCache, ...],
    tokens_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    lengths_B: Int[Array, " B"],
    exits_X: Int[Array, " X"],
    plan: Plan,
    samples: int,
) -> tuple[Float[Array, "X B D"], tuple[LaneCache, ...]]:
    """One new token of every lane through the staircase: each lane's stream at its exit."""
    c = model.config
    h_XBD = model.embed_tokens(tokens_XB)
    cos_BH, sin_BH = model.rope_at(lengths_B + step)
    picked_XBD = jnp.full(h_XBD.shape, jnp.nan, h_XBD.dtype)
    written = []
    for segment, lanes in zip(plan, caches, strict=True):
        streams = segment.exits * samples
        exits_here = exits_X[:streams]

        def layer(carry, step_in, exits_here=exits_here):
            h_XBD, picked_XBD = carry
            i, k_XBKTH, v_XBKTH = step_in
            block = model.layer(i)
            q_XBQH, k_XBKH, v_XBKH = block.project(h_XBD, cos_BH, sin_BH)
            q = q_XBQH.reshape(*k_XBKH.shape[:3], -1, c.head_dim)
            mixed = merge_parts(
                attend_prompt(
                    q, cache.k_LBKSH[i], cache.v_LBKSH[i], lengths_B, step, c.sliding_window
                ),
                attend_lane(q, k_XBKTH, v_XBKTH, step, c.sliding_window),
                attend_self(q, k_XBKH, v_XBKH),
            )
            h_XBD = block.finish(h_XBD, mixed.reshape(q_XBQH.shape).astype(h_XBD.dtype))
            here = (i + 1 == exits_here)[:, None, None]
            return (h_XBD, jnp.where(here, h_XBD, picked_XBD)), (k_XBKH, v_XBKH)

        numbers = jnp.arange(segment.first, segment.last)
        start = (h_XBD[:streams], picked_XBD[:streams])
        (h_XBD, picked), new = jax.lax.scan(layer, start, (numbers, *lanes))
        picked_XBD = jax.lax.dynamic_update_slice_in_dim(picked_XBD, picked, 0, axis=0)
        written.append(write_step(lanes, *new, step))
    return picked_XBD, tuple(written)


def _check(model, exits, max_new_tokens, samples, length, segments) -> None:
    if not exits:
        raise InputError("no exits: name at least one")
    for exit in exits:
        check_exits(exit, model.config.num_hidden_layers)
    for name, value in (("max_new_tokens", max_new_tokens), ("samples", samples)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
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
