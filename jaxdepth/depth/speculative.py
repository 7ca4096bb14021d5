"""Greedy self-speculative decoding: the first layers draft, the rest verify; every depth at once.

A lane is a prompt x draft depth d. In a round it drafts some tokens one by one with layers 1..d and
exit d's logits. Then layers d + 1..L run over its last known token and the drafted ones beside each
other: they go on from the streams after layer d, so no layer of the draft runs twice. What full
depth says after each of them is then known: the drafted tokens up to the first that full depth
would not have said are accepted, and full depth's own token after those comes for nothing.

Source: LayerSkip, Elhoushi et al. 2024 (arXiv:2404.16710).

A lane's token n stands in slot n of its cache, and what attends to it are later tokens alone. So
slots that a rejected draft leaves behind are never seen: the next round begins at the first of
them, and writes each before a later one is asked for.

The depths are traced: lists of as many depths share one program. It runs the layers below the
deepest draft for every lane while it drafts, those above the shallowest while it verifies, and
leaves a lane's stream and cache as they are in layers that the lane does not run.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.decode import prefill
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.generation import DEFAULT_BUDGET, check_room, split
from jaxdepth.depth.lanes import Segment, memory
from jaxdepth.depth.sampling import argmax
from jaxdepth.depth.talk import is_any
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.cache import (
    Kept,
    LaneCache,
    PromptCache,
    attend_parent,
    attend_prompt,
    attend_self,
)
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain, shard, to_host


class Speculation(NamedTuple):
    """What every lane said, and what it took, the first token being the prompt pass's.

    A draft is `draft_tokens` long; shorter where it comes to an end token, which is its last, and
    where fewer are left to say: one of those is full depth's own. So a lane's last round may draft
    nothing.
    """

    tokens: Int[np.ndarray, "B E T"]  # positions from a lane's length on hold 0
    lengths: Int[np.ndarray, "B E"]  # the end token counts
    rounds: Int[np.ndarray, "B E"]  # how often a lane verified
    drafted: Int[np.ndarray, "B E"]  # tokens of all its drafts
    accepted: Int[np.ndarray, "B E"]  # those of them that it said


def speculate(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    depths: Sequence[int],
    max_new_tokens: int,
    *,
    draft_tokens: int = 4,
    stop_tokens: Sequence[int] = (),
    memory_budget: int = DEFAULT_BUDGET,
) -> Speculation:
    """Decodes every prompt greedily at full depth, drafting at every one of some depths.

    The text is what `generate` says at exit L, whatever the depth. The sums behind it are taken in
    another order, so two tokens as good as equal may change places: in bfloat16 that can be seen.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        depths: how many layers draft, in any order, each 1..L - 1.
        max_new_tokens: the most tokens that a lane says, T.
        draft_tokens: the most tokens that are drafted in a round.
        stop_tokens: token ids that end a lane, besides none.
        memory_budget: bytes that caches and logits may hold; prompts, then depths are split so that
            they do.

    Returns:
        Numpy arrays, in the order of `depths`.

    Raises:
        InputError: an argument is out of range, or one lane alone exceeds the budget.
    """
    check_tokens(model, tokens_BS, lengths_B)
    _check(model, depths, max_new_tokens, draft_tokens, np.shape(tokens_BS)[1])
    tokens_BS, lengths_B = np.asarray(tokens_BS, np.int32), np.asarray(lengths_B, np.int32)
    B, E, T, L = len(lengths_B), len(depths), max_new_tokens, model.config.num_hidden_layers
    found = Speculation(
        np.zeros((B, E, T), np.int32), *(np.zeros((B, E), np.int32) for _ in range(4))
    )
    stops = jnp.asarray(tuple(stop_tokens), jnp.int32)

    def bytes_of(prompts: int, part: Sequence[int], _: int) -> int:
        return _bytes(model, len(part), prompts, tokens_BS.shape[1], T, draft_tokens)

    for rows, full, places, _ in split(bytes_of, depths, B, 1, memory_budget, model.mesh):
        prompt_lengths = shard(lengths_B[full], "B", model.mesh)
        prompt_tokens = shard(tokens_BS[full], "BS", model.mesh)
        cache, last_1BD = prefill(model, prompt_tokens, prompt_lengths, np.array([L]), L)
        part = np.array([depths[p] for p in places], np.int32)
        said = run_rounds(
            model,
            cache,
            last_1BD[0],
            prompt_lengths,
            part,
            stops,
            max_new_tokens=T,
            draft_tokens=draft_tokens,
        )
        for mine, of_part in zip(found, said, strict=True):
            mine[np.ix_(rows, places)] = np.moveaxis(to_host(of_part), 1, 0)[: len(rows)]
    return found


def passes_spent(
    depths: Sequence[int],
    rounds: Int[np.ndarray, "B E"],
    drafted: Int[np.ndarray, "B E"],
    layers: int,
) -> Int[np.ndarray, "B E"]:
    """How many layers ran one after the other, after the prompt's pass: what a lane waits for.

    A round's tokens go through the first d layers one after the other, and through the other L - d
    together: d (drafted + 1) + L - d. That is also how often a layer's weights are read. Full depth
    alone takes L (length - 1).

    Args:
        depths: of the drafts, E of them.
        rounds: of all lanes, from a `Speculation`.
        drafted: the same.
        layers: of the model, L.
    """
    return np.asarray(depths) * drafted + layers * rounds


class _Lanes(NamedTuple):
    """What the loop knows of X draft depths: first what a `Speculation` says of them."""

    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]  # how many tokens are known; the last is in no cache
    rounds_XB: Int[Array, "X B"]
    drafted_XB: Int[Array, "X B"]
    accepted_XB: Int[Array, "X B"]
    done_XB: Bool[Array, "X B"]
    cache: LaneCache


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "draft_tokens"))
def run_rounds(
    model: Mistral,
    prompt: PromptCache,
    last_BD: Float[Array, "B D"],
    lengths_B: Int[Array, " B"],
    depths_X: Int[Array, " X"],
    stop_tokens: Int[Array, " stops"],
    *,
    max_new_tokens: int,
    draft_tokens: int,
) -> tuple[Int[Array, "X B *T"], ...]:
    """The loop over rounds, all lanes beside each other; ends when every lane has ended.

    Args:
        model: the model.
        prompt: the cache of the prompts, of all layers.
        last_BD: the stream after the last layer at each prompt's last token.
        lengths_B: lengths of the prompts.
        depths_X: the draft depths.
        stop_tokens: ids that end a lane.
        max_new_tokens: the most tokens that a lane says.
        draft_tokens: the most tokens that are drafted in a round.

    Returns:
        Arrays as `Speculation` has them, but with X before B.
    """
    c, T, R = model.config, max_new_tokens, draft_tokens + 1
    X, B = len(depths_X), len(lengths_B)
    first_XB = jnp.broadcast_to(argmax(model.unembed(last_BD)), (X, B))
    zeros_XB = jnp.zeros((X, B), jnp.int32)
    # The last round may begin at the last token but one, and an ended lane idles at the last.
    shape = (c.num_hidden_layers, X, B, c.num_key_value_heads, T + draft_tokens, c.head_dim)
    state = _Lanes(
        jnp.zeros((X, B, T), jnp.int32).at[:, :, 0].set(first_XB),
        zeros_XB + 1,
        *(zeros_XB,) * 3,
        is_any(first_XB, stop_tokens) | (T == 1),
        LaneCache(*(constrain(jnp.zeros(shape, last_BD.dtype), "LXBKTH", model.mesh),) * 2),
    )

    def advance(lanes: _Lanes) -> _Lanes:
        known_XB = lanes.lengths_XB
        last_XB = jnp.take_along_axis(lanes.tokens_XBT, known_XB[..., None] - 1, axis=-1)[..., 0]
        draft_XBR, h_XRBD, cache = _draft(
            model, prompt, lanes.cache, last_XB, known_XB - 1, lengths_B, depths_X, R
        )
        true_XBR, cache = _verify(model, prompt, cache, h_XRBD, known_XB - 1, lengths_B, depths_X)
        # What the draft says after its last token is nobody's: that token only had to be run.
        drafted_XB, accepted_XB, said_XB = _compare(
            draft_XBR[..., :-1], true_XBR, T - known_XB, stop_tokens
        )
        going_XB = ~lanes.done_XB
        said_XB = jnp.where(going_XB, said_XB, 0)
        tokens_XBT = _append(lanes.tokens_XBT, known_XB, true_XBR, said_XB)
        end_XB1 = jnp.maximum(said_XB - 1, 0)[..., None]
        ends_XB = is_any(jnp.take_along_axis(true_XBR, end_XB1, axis=-1)[..., 0], stop_tokens)
        return _Lanes(
            tokens_XBT,
            known_XB + said_XB,
            lanes.rounds_XB + going_XB,
            lanes.drafted_XB + going_XB * drafted_XB,
            lanes.accepted_XB + going_XB * accepted_XB,
            lanes.done_XB | ends_XB | (known_XB + said_XB >= T),
            cache,
        )

    lanes = jax.lax.while_loop(lambda lanes: ~lanes.done_XB.all(), advance, state)
    return lanes[: len(Speculation._fields)]


def _draft(
    model: Mistral,
    prompt: PromptCache,
    cache: LaneCache,
    last_XB: Int[Array, "X B"],
    slots_XB: Int[Array, "X B"],
    lengths_B: Int[Array, " B"],
    depths_X: Int[Array, " X"],
    count: int,
) -> tuple[Int[Array, "X B R"], Float[Array, "X R B D"], LaneCache]:
    """Runs `count` tokens through the first layers, one by one: what each says is the next.

    Returns the tokens that they say, their streams after the draft's layers, and the cache.
    """
    none_X = jnp.zeros_like(depths_X)

    def feed(carry, r):
        tokens_XB, cache = carry
        h_XBD = model.embed_tokens(tokens_XB)
        h_XBD, cache = _run_layers(
            model, prompt, cache, h_XBD, slots_XB + r, lengths_B, none_X, depths_X
        )
        tokens_XB = argmax(model.unembed(h_XBD))
        return (tokens_XB, cache), (tokens_XB, h_XBD)

    (_, cache), (said_RXB, h_RXBD) = jax.lax.scan(feed, (last_XB, cache), jnp.arange(count))
    return jnp.moveaxis(said_RXB, 0, -1), h_RXBD.swapaxes(0, 1), cache


def _verify(
    model: Mistral,
    prompt: PromptCache,
    cache: LaneCache,
    h_XRBD: Float[Array, "X R B D"],
    slots_XB: Int[Array, "X B"],
    lengths_B: Int[Array, " B"],
    depths_X: Int[Array, " X"],
) -> tuple[Int[Array, "X B R"], LaneCache]:
    """Runs a round's tokens through the other layers, together: what full depth says after each."""
    X, R, B, D = h_XRBD.shape
    slots_XRB = slots_XB[:, None] + jnp.arange(R)[:, None]
    first_Y = jnp.repeat(depths_X, R)
    last_Y = jnp.full_like(first_Y, model.config.num_hidden_layers)
    h_YBD, cache = _run_layers(
        model,
        prompt,
        cache,
        h_XRBD.reshape(-1, B, D),
        slots_XRB.reshape(-1, B),
        lengths_B,
        first_Y,
        last_Y,
    )
    said_YB = argmax(model.unembed(h_YBD))
    return said_YB.reshape(X, R, B).swapaxes(1, 2), cache


def _run_layers(
    model: Mistral,
    prompt: PromptCache,
    cache: LaneCache,
    h_YBD: Float[Array, "Y B D"],
    slots_YB: Int[Array, "Y B"],
    lengths_B: Int[Array, " B"],
    first_Y: Int[Array, " Y"],
    last_Y: Int[Array, " Y"],
) -> tuple[Float[Array, "Y B D"], LaneCache]:
    """Layers `first`..`last - 1` of some tokens of every lane, counted from 0.

    The tokens of a lane lie beside each other: token r of lane x is Y = x * R + r.
    """
    X, slots = cache.k_LXBKTH.shape[1], cache.k_LXBKTH.shape[4]
    Y, B, _ = h_YBD.shape
    lanes_Y1, prompts_B = jnp.repeat(jnp.arange(X), Y // X)[:, None], jnp.arange(B)
    positions_YB = lengths_B + slots_YB
    rotation = model.rope_at(positions_YB)

    def layer(i, carry):
        h_YBD, cache = carry
        runs_Y1 = ((first_Y <= i) & (i < last_Y))[:, None]
        block = model.layer(i)
        window = block.window
        q, k_YBKH, v_YBKH = block.project_step(h_YBD, *rotation)
        places_YB = jnp.where(runs_Y1, slots_YB, slots)  # there is no such slot: it is dropped

        def write(old_LXBKTH, new_YBKH):
            at = old_LXBKTH.at[i, lanes_Y1, prompts_B, :, places_YB]
            return at.set(new_YBKH, mode="drop")

        cache = LaneCache(write(cache.k_LXBKTH, k_YBKH), write(cache.v_LXBKTH, v_YBKH))
        parts = (
            attend_prompt(q, Kept(*prompt, i), lengths_B, positions_YB, window),
            # A token goes on, at its own slot, from the slots before it.
            attend_parent(q, Kept(*cache, i), slots_YB, jnp.int32(0), window),
            attend_self(q, k_YBKH, v_YBKH),
        )
        return jnp.where(runs_Y1[..., None], block.finish_step(h_YBD, parts), h_YBD), cache

    return jax.lax.fori_loop(first_Y.min(), last_Y.max(), layer, (h_YBD, cache))


def _compare(
    draft_XBN: Int[Array, "X B N"],
    true_XBR: Int[Array, "X B R"],
    left_XB: Int[Array, "X B"],
    stop_tokens: Int[Array, " stops"],
) -> tuple[Int[Array, "X B"], Int[Array, "X B"], Int[Array, "X B"]]:
    """How many tokens were drafted, accepted and said; R = N + 1.

    Args:
        draft_XBN: what the draft said, beyond its end too.
        true_XBR: what full depth says in the place of each, and after the last.
        left_XB: how many tokens may still be said.
        stop_tokens: ids that end a lane.
    """
    ends_XBN = is_any(draft_XBN, stop_tokens)
    after_end_XBN = jnp.cumsum(ends_XBN, axis=-1) > ends_XBN
    room_XBN = jnp.arange(draft_XBN.shape[-1]) < left_XB[..., None] - 1
    drafted_XBN = room_XBN & ~after_end_XBN
    agrees_XBN = drafted_XBN & (draft_XBN == true_XBR[..., :-1])
    accepted_XBN = jnp.cumprod(agrees_XBN, axis=-1).astype(bool)
    accepted_XB = accepted_XBN.sum(-1)
    ended_XB = (accepted_XBN & ends_XBN).any(-1)
    return drafted_XBN.sum(-1), accepted_XB, accepted_XB + ~ended_XB


def _append(
    tokens_XBT: Int[Array, "X B T"],
    known_XB: Int[Array, "X B"],
    true_XBR: Int[Array, "X B R"],
    said_XB: Int[Array, "X B"],
) -> Int[Array, "X B T"]:
    """The texts with the first `said` of the new tokens at their ends."""
    new_XBT = jnp.arange(tokens_XBT.shape[-1]) - known_XB[..., None]
    picked_XBT = jnp.take_along_axis(true_XBR, new_XBT, axis=-1, mode="clip")
    return jnp.where((new_XBT >= 0) & (new_XBT < said_XB[..., None]), picked_XBT, tokens_XBT)


def _bytes(
    model: Mistral, lanes: int, prompts: int, length: int, new_tokens: int, draft_tokens: int
) -> int:
    """What a batch holds besides the weights: all layers' caches, and the logits of a round."""
    config, itemsize = model.config, model.embed[...].dtype.itemsize
    plan = (Segment(0, config.num_hidden_layers, lanes),)
    shape = prompts, length, new_tokens + draft_tokens, 1, itemsize
    held = memory(config, plan, *shape, model.mesh)
    return held.total + draft_tokens * held.logits


def _check(model, depths, max_new_tokens, draft_tokens, length) -> None:
    if not len(depths):
        raise InputError("no draft depths: name at least one")
    check_exits(depths, model.config.num_hidden_layers - 1, "draft depth")
    at_least(1, max_new_tokens=max_new_tokens, draft_tokens=draft_tokens)
    check_room(model.config, length, max_new_tokens)
