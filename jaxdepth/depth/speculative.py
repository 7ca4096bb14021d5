"""Greedy self-speculative decoding: the first layers draft, the rest verify; every depth at once.

A lane is a prompt x draft depth d. In a round it drafts some tokens one by one with layers 1..d and
exit d's logits. Then layers d + 1..L run over its last accepted token and the drafted ones in
parallel, from the residual streams after layer d, so no layer of the draft runs twice. This gives
full depth's token after each of them: the drafted tokens up to the first that differs from full
depth's are accepted, and full depth's own token after those costs nothing more.

Source: LayerSkip, Elhoushi et al. 2024 (arXiv:2404.16710).

A lane's token n stands in slot n of its cache, and only later tokens attend to it. So the slots of
a rejected draft are never read: the next round begins at the first of them, and writes each before
a later token attends to it.

The depths are traced: lists of the same number of depths share one program. It runs the layers
below the deepest draft for every lane while it drafts, those above the shallowest while it
verifies, and leaves a lane's residual stream and cache unchanged in layers that the lane does not
run.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.cpu.argmax import argmax
from jaxdepth.depth.decode import prefill
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.generation import DEFAULT_BUDGET, check_room, split
from jaxdepth.depth.lanes import Segment, memory
from jaxdepth.depth.layer_scan import fold_layers
from jaxdepth.depth.sampling import is_any
from jaxdepth.errors import InputError, at_least
from jaxdepth.model import AnyArray, Ints
from jaxdepth.model.cache import (
    CachesApart,
    LaneCache,
    PromptCache,
    attend_prefix,
    attend_prompt,
    attend_self,
    slice_cache,
)
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain, shard, to_host


class Speculation(NamedTuple):
    """The tokens of every lane, and what they took; the prompt's pass gives the first.

    A draft has `draft_tokens` tokens; fewer where an end token ends it, and where fewer may still
    be decoded: one of those is full depth's own. So a lane's last round may draft nothing.
    """

    tokens: Int[np.ndarray, "B E T"]  # 0 beyond a lane's length
    lengths: Int[np.ndarray, "B E"]  # the end token counts
    rounds: Int[np.ndarray, "B E"]  # how often a lane verified
    drafted: Int[np.ndarray, "B E"]  # tokens of all drafts
    accepted: Int[np.ndarray, "B E"]  # drafted tokens that were accepted


def speculate(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    depths: Ints,
    max_new_tokens: int,
    *,
    draft_tokens: int = 4,
    stop_tokens: Ints = (),
    memory_budget: int = DEFAULT_BUDGET,
) -> Speculation:
    """Decode every prompt greedily at full depth, drafting at each of some depths.

    The text is that of `generate` at exit L, whatever the depth. The sums behind it are taken in
    another order, so two tokens of almost the same logit may swap: in bfloat16 that happens.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        depths: how many layers draft, in any order, each 1..L - 1.
        max_new_tokens: T, the maximum per lane.
        draft_tokens: the maximum of tokens that are drafted in a round.
        stop_tokens: token ids that end a lane; by default none does.
        memory_budget: bytes that caches and logits may take; prompts, then depths are split into
            batches that fit.

    Returns:
        Numpy arrays, in the order of `depths`.

    Raises:
        InputError: an argument is out of range, or one lane alone exceeds the budget.
    """
    check_tokens(model, tokens_BS, lengths_B)
    _check(model, depths, max_new_tokens, draft_tokens, np.shape(tokens_BS)[1])
    depths = [int(d) for d in depths]
    tokens_BS, lengths_B = np.asarray(tokens_BS, np.int32), np.asarray(lengths_B, np.int32)
    B, E, T, L = len(lengths_B), len(depths), max_new_tokens, model.config.num_hidden_layers
    counts = (np.zeros((B, E, 1), np.int32) for _ in range(4))
    speculation = Speculation(np.zeros((B, E, 1, T), np.int32), *counts)
    stops = jnp.asarray(tuple(stop_tokens), jnp.int32)

    def bytes_of(prompts: int, part: Sequence[int], _: int) -> int:
        return _bytes(model, len(part), prompts, tokens_BS.shape[1], T, draft_tokens)

    for batch in split(bytes_of, depths, B, 1, memory_budget, model.mesh):
        prompt_lengths = shard(lengths_B[batch.padded_rows], "B", model.mesh)
        prompt_tokens = shard(tokens_BS[batch.padded_rows], "BS", model.mesh)
        cache, last_1BD = prefill(model, prompt_tokens, prompt_lengths, np.array([L]), L)
        lanes = run_rounds(
            model,
            cache,
            last_1BD[0],
            prompt_lengths,
            np.array([depths[e] for e in batch.exits], np.int32),
            stops,
            max_new_tokens=T,
            draft_tokens=draft_tokens,
        )
        batch.write(speculation, (to_host(array_XB)[:, None] for array_XB in lanes))
    return Speculation(*(array[:, :, 0] for array in speculation))


def sequential_layers(
    depths: Ints,
    rounds: Int[np.ndarray, "B E"],
    drafted: Int[np.ndarray, "B E"],
    layers: int,
) -> Int[np.ndarray, "B E"]:
    """How many layers ran one after the other after the prompt's pass: the latency of a lane.

    A round's tokens go through the first d layers one after the other, and through the other L - d
    together: d (drafted + 1) + L - d. That is also how often a layer's parameters are read. Full
    depth alone takes L (length - 1).

    Args:
        depths: the draft depths.
        rounds: the rounds of every lane, of a `Speculation`.
        drafted: the drafted tokens of every lane.
        layers: L, the layers of the model.
    """
    return np.asarray(depths) * drafted + layers * rounds


class _Lanes(NamedTuple):
    """The state of the loop over rounds; its first fields are those of `Speculation`."""

    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]  # tokens decoded so far; the last is in no cache
    rounds_XB: Int[Array, "X B"]
    drafted_XB: Int[Array, "X B"]
    accepted_XB: Int[Array, "X B"]
    done_XB: Bool[Array, "X B"]
    cache: LaneCache


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "draft_tokens"))
def run_rounds(
    model: Mistral,
    prompt: PromptCache | CachesApart,
    last_BD: Float[Array, "B D"],
    lengths_B: Int[Array, " B"],
    depths_X: Int[Array, " X"],
    stop_tokens: Int[Array, " stops"],
    *,
    max_new_tokens: int,
    draft_tokens: int,
) -> tuple[Int[Array, "X B *T"], ...]:
    """Run rounds of all lanes in parallel until every lane has ended.

    Args:
        model: the model.
        prompt: keys and values of the prompts, for all layers.
        last_BD: the residual stream after the last layer at each prompt's last token.
        lengths_B: lengths of the prompts.
        depths_X: the draft depths.
        stop_tokens: ids that end a lane.
        max_new_tokens: T, the maximum per lane.
        draft_tokens: the maximum of tokens that are drafted in a round, W - 1.

    Returns:
        The arrays of `Speculation`, by lane.
    """
    c, T, W = model.config, max_new_tokens, draft_tokens + 1
    X, B = len(depths_X), len(lengths_B)
    first_XB = jnp.broadcast_to(argmax(model.unembed(last_BD, model.depth)), (X, B))
    zeros_XB = jnp.zeros((X, B), jnp.int32)
    # The last round may begin at the last token but one, and an ended lane idles at the last.
    shape = (c.num_hidden_layers, X, B, c.num_key_value_heads, T + draft_tokens, c.head_dim)
    start = _Lanes(
        jnp.zeros((X, B, T), jnp.int32).at[:, :, 0].set(first_XB),
        zeros_XB + 1,
        *(zeros_XB,) * 3,
        is_any(first_XB, stop_tokens) | (T == 1),
        LaneCache(*(constrain(jnp.zeros(shape, last_BD.dtype), "LXBKTH", model.mesh),) * 2),
    )

    def run_round(lanes: _Lanes) -> _Lanes:
        length_XB = lanes.lengths_XB
        last_XB = jnp.take_along_axis(lanes.tokens_XBT, length_XB[..., None] - 1, axis=-1)[..., 0]
        draft_XBW, h_XWBD, cache = _draft(
            model, prompt, lanes.cache, last_XB, length_XB - 1, lengths_B, depths_X, W
        )
        true_XBW, cache = _verify(model, prompt, cache, h_XWBD, length_XB - 1, lengths_B, depths_X)
        # The draft's token after the last is not used: the last only had to be run.
        drafted_XB, accepted_XB, new_XB = _compare(
            true_XBW, draft_XBW[..., :-1], T - length_XB, stop_tokens
        )
        going_XB = ~lanes.done_XB
        new_XB = jnp.where(going_XB, new_XB, 0)
        tokens_XBT = _append(lanes.tokens_XBT, length_XB, true_XBW, new_XB)
        end_XB1 = jnp.maximum(new_XB - 1, 0)[..., None]
        ends_XB = is_any(jnp.take_along_axis(true_XBW, end_XB1, axis=-1)[..., 0], stop_tokens)
        return _Lanes(
            tokens_XBT,
            length_XB + new_XB,
            lanes.rounds_XB + going_XB,
            lanes.drafted_XB + going_XB * drafted_XB,
            lanes.accepted_XB + going_XB * accepted_XB,
            lanes.done_XB | ends_XB | (length_XB + new_XB >= T),
            cache,
        )

    end = jax.lax.while_loop(lambda lanes: ~lanes.done_XB.all(), run_round, start)
    return end.tokens_XBT, end.lengths_XB, end.rounds_XB, end.drafted_XB, end.accepted_XB


def _draft(
    model: Mistral,
    prompt: PromptCache | CachesApart,
    cache: LaneCache,
    last_XB: Int[Array, "X B"],
    slots_XB: Int[Array, "X B"],
    lengths_B: Int[Array, " B"],
    depths_X: Int[Array, " X"],
    count: int,
) -> tuple[Int[Array, "X B W"], Float[Array, "X W B D"], LaneCache]:
    """Run `count` tokens through the draft layers, each the most probable after the one before.

    Returns:
        The token after each, the residual stream of each after the draft layers, and the cache.
    """
    none_X = jnp.zeros_like(depths_X)

    def run_token(carry, w):
        tokens_XB, cache = carry
        h_XBD = model.embed_tokens(tokens_XB)
        h_XBD, cache = _run_layers(
            model, prompt, cache, h_XBD, slots_XB + w, lengths_B, none_X, depths_X
        )
        tokens_XB = argmax(model.unembed(h_XBD, depths_X))
        return (tokens_XB, cache), (tokens_XB, h_XBD)

    (_, cache), (next_WXB, h_WXBD) = jax.lax.scan(run_token, (last_XB, cache), jnp.arange(count))
    return jnp.moveaxis(next_WXB, 0, -1), h_WXBD.swapaxes(0, 1), cache


def _verify(
    model: Mistral,
    prompt: PromptCache | CachesApart,
    cache: LaneCache,
    h_XWBD: Float[Array, "X W B D"],
    slots_XB: Int[Array, "X B"],
    lengths_B: Int[Array, " B"],
    depths_X: Int[Array, " X"],
) -> tuple[Int[Array, "X B W"], LaneCache]:
    """Run a round's tokens together through the other layers: full depth's token after each."""
    X, W, B, D = h_XWBD.shape
    slots_XWB = slots_XB[:, None] + jnp.arange(W)[:, None]
    first_Y = jnp.repeat(depths_X, W)
    last_Y = jnp.full_like(first_Y, model.config.num_hidden_layers)
    h_YBD, cache = _run_layers(
        model,
        prompt,
        cache,
        h_XWBD.reshape(-1, B, D),
        slots_XWB.reshape(-1, B),
        lengths_B,
        first_Y,
        last_Y,
    )
    next_YB = argmax(model.unembed(h_YBD, model.depth))
    return next_YB.reshape(X, W, B).swapaxes(1, 2), cache


def _run_layers(
    model: Mistral,
    prompt: PromptCache | CachesApart,
    cache: LaneCache,
    h_YBD: Float[Array, "Y B D"],
    slots_YB: Int[Array, "Y B"],
    lengths_B: Int[Array, " B"],
    first_Y: Int[Array, " Y"],
    last_Y: Int[Array, " Y"],
) -> tuple[Float[Array, "Y B D"], LaneCache]:
    """Run layers `first`..`last - 1`, counted from 0, over some tokens of every lane.

    The tokens of a lane are adjacent: token w of lane x is Y = x * W + w.
    """
    X, slots = cache.k_LXBKTH.shape[1], cache.k_LXBKTH.shape[4]
    Y, B, _ = h_YBD.shape
    lanes_Y1, prompts_B = jnp.repeat(jnp.arange(X), Y // X)[:, None], jnp.arange(B)
    positions_YB = lengths_B + slots_YB
    rotation = model.rope_at(positions_YB)

    def run_layer(carry, block, i):
        h_YBD, cache = carry
        runs_Y1 = ((first_Y <= i) & (i < last_Y))[:, None]
        window = block.window
        q_YBKGH, k_YBKH, v_YBKH = block.project_step(h_YBD, *rotation)
        # A lane that does not run this layer writes to a slot that does not exist: it is dropped.
        target_YB = jnp.where(runs_Y1, slots_YB, slots)

        def write(old_LXBKTH, new_YBKH):
            at = old_LXBKTH.at[i, lanes_Y1, prompts_B, :, target_YB]
            return at.set(new_YBKH, mode="drop")

        cache = LaneCache(write(cache.k_LXBKTH, k_YBKH), write(cache.v_LXBKTH, v_YBKH))
        parts = (
            attend_prompt(q_YBKGH, slice_cache(prompt, i), lengths_B, positions_YB, window),
            # The slots before a token's own are a prefix, which it continues at step 0.
            attend_prefix(q_YBKGH, slice_cache(cache, i), slots_YB, jnp.int32(0), window),
            attend_self(q_YBKGH, k_YBKH, v_YBKH),
        )
        return jnp.where(runs_Y1[..., None], block.finish_step(h_YBD, parts), h_YBD), cache

    return fold_layers(model, run_layer, (h_YBD, cache), first_Y.min(), last_Y.max())


def _compare(
    true_XBW: Int[Array, "X B W"],
    draft_XBW: Int[Array, "X B W-1"],
    left_XB: Int[Array, "X B"],
    stop_tokens: Int[Array, " stops"],
) -> tuple[Int[Array, "X B"], Int[Array, "X B"], Int[Array, "X B"]]:
    """How many tokens were drafted, were accepted, and are new.

    Args:
        true_XBW: full depth's token in the place of each drafted one, and after the last.
        draft_XBW: the draft's tokens, also beyond its end token.
        left_XB: how many tokens may still be decoded.
        stop_tokens: ids that end a lane.
    """
    ends_XBW = is_any(draft_XBW, stop_tokens)
    after_end_XBW = jnp.cumsum(ends_XBW, axis=-1) > ends_XBW
    fits_XBW = jnp.arange(draft_XBW.shape[-1]) < left_XB[..., None] - 1
    drafted_XBW = fits_XBW & ~after_end_XBW
    agrees_XBW = drafted_XBW & (draft_XBW == true_XBW[..., :-1])
    accepted_XBW = jnp.cumprod(agrees_XBW, axis=-1).astype(bool)
    accepted_XB = accepted_XBW.sum(-1)
    ended_XB = (accepted_XBW & ends_XBW).any(-1)
    return drafted_XBW.sum(-1), accepted_XB, accepted_XB + ~ended_XB


def _append(
    tokens_XBT: Int[Array, "X B T"],
    length_XB: Int[Array, "X B"],
    true_XBW: Int[Array, "X B W"],
    count_XB: Int[Array, "X B"],
) -> Int[Array, "X B T"]:
    """Append the first `count` of a round's tokens to texts of some length."""
    new_XBT = jnp.arange(tokens_XBT.shape[-1]) - length_XB[..., None]
    picked_XBT = jnp.take_along_axis(true_XBW, new_XBT, axis=-1, mode="clip")
    return jnp.where((new_XBT >= 0) & (new_XBT < count_XB[..., None]), picked_XBT, tokens_XBT)


def _bytes(
    model: Mistral, lanes: int, prompts: int, length: int, new_tokens: int, draft_tokens: int
) -> int:
    """Bytes of a batch besides the parameters: caches of all layers, and the logits of a round."""
    config, itemsize = model.config, model.embed[...].dtype.itemsize
    plan = (Segment(0, config.num_hidden_layers, lanes),)
    shape = prompts, length, new_tokens + draft_tokens, 1, itemsize
    decoding = memory(config, plan, *shape, model.mesh)
    return decoding.total + draft_tokens * decoding.logits


def _check(
    model: Mistral, depths: Ints, max_new_tokens: int, draft_tokens: int, length: int
) -> None:
    if not len(depths):
        raise InputError("no draft depths: name at least one")
    check_exits(depths, model.config.num_hidden_layers - 1, "draft depth")
    at_least(1, max_new_tokens=max_new_tokens, draft_tokens=draft_tokens)
    check_room(model.config, length, max_new_tokens)
