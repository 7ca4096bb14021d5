"""Log-probabilities of continuations at every exit, where several continue one prefix.

Answers of all exits to one prompt have that prompt in common, and so have the choices of a question
of a benchmark. Each prefix passes through the layers once, and its keys and values serve every row
that continues it. What an exit makes of a token is read in the same pass, and only where a token is
scored: an unembedding costs as much as several layers of a small model.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.cpu.argmax import argmax
from jaxdepth.depth.continuation_batches import QUERIES, ScoringBatch, make_scoring_batches
from jaxdepth.depth.exits import check_exits
from jaxdepth.depth.layer_scan import over_layers
from jaxdepth.errors import InputError
from jaxdepth.model import Ints
from jaxdepth.model.attention import attend_part, merge_parts
from jaxdepth.model.mistral import Block, Mistral
from jaxdepth.model.sharding import constrain, shard, to_host, whole_rows

_LOGITS = 2**22  # numbers of logits that exist at once, about


class Scores(NamedTuple):
    """What exits make of the tokens of one continuation."""

    logprob_ET: Float[np.ndarray, "E T"]  # natural log-probability of each token
    is_top_ET: Bool[np.ndarray, "E T"]  # whether it is the most probable token


def continuation_logprobs(
    model: Mistral,
    prefixes: Sequence[Ints],
    continuations: Sequence[Ints],
    prefix_of: Sequence[int],
    batch_size: int = 32,
) -> list[Float[np.ndarray, " T"]]:
    """`continuation_scores` at full depth, without the most probable tokens."""
    exits = [model.depth]
    scores = continuation_scores(model, prefixes, continuations, prefix_of, exits, batch_size)
    return [score.logprob_ET[0] for score in scores]


def continuation_scores(
    model: Mistral,
    prefixes: Sequence[Ints],
    continuations: Sequence[Ints],
    prefix_of: Sequence[int],
    exits: Ints,
    batch_size: int = 32,
) -> list[Scores]:
    """Natural log-probability of every token of each continuation, at several exits.

    Args:
        model: a model from `jaxdepth.load`.
        prefixes: token ids of each prefix; one may be empty.
        continuations: token ids of N continuations; one may be empty.
        prefix_of: the index of each continuation's prefix.
        exits: which exits, in any order, each 1..L.
        batch_size: continuations per forward pass.

    Returns:
        N scores. The first token after an empty prefix has NaN: nothing precedes it.

    Raises:
        InputError: a prefix with its continuation is longer than the model allows, a token is not
            in the vocabulary, or an exit is out of range.
    """
    batches = scoring_batches(model, prefixes, continuations, prefix_of, batch_size)
    check_exits(exits, model.depth)
    empty = Scores(np.zeros((len(exits), 0), np.float32), np.zeros((len(exits), 0), bool))
    scores = [empty] * len(continuations)
    for batch in batches:
        for n, score in zip(batch.indices, score_batch(model, batch, exits), strict=True):
            if not len(prefixes[prefix_of[n]]):
                score.logprob_ET[:, 0], score.is_top_ET[:, 0] = np.nan, False
            scores[n] = score
    return scores


def scoring_batches(
    model: Mistral,
    prefixes: Sequence[Ints],
    continuations: Sequence[Ints],
    prefix_of: Sequence[int],
    batch_size: int,
) -> list[ScoringBatch]:
    """The batches in which `continuation_scores` scores what is not empty; arguments as there.

    Raises:
        InputError: a prefix with its continuation is longer than the model allows, or a token is
            not in the vocabulary.
    """
    limit, size = model.config.max_position_embeddings, model.config.vocab_size
    for n, tokens in enumerate(continuations):
        length = len(prefixes[prefix_of[n]]) + len(tokens)
        # The last token is predicted, and never read.
        if length > limit + 1:
            raise InputError(
                f"a prompt with its answer is {length} tokens long, the model allows {limit}"
            )
    for tokens in (*prefixes, *continuations):
        array = np.asarray(tokens)
        if array.size and not 0 <= array.min() <= array.max() < size:
            wrong = array[(array < 0) | (array >= size)][0]
            raise InputError(f"token {wrong} is not in the vocabulary of {size}")
    block = max(16, min(256, _LOGITS // size))
    return make_scoring_batches(
        prefixes, continuations, prefix_of, batch_size, block, lambda n: whole_rows(n, model.mesh)
    )


def score_batch(model: Mistral, batch: ScoringBatch, exits: Ints) -> list[Scores]:
    """The scores of a batch's continuations in the order of its indices, at exits in any order."""
    is_exit_L = np.zeros(model.depth, bool)
    is_exit_L[np.asarray(exits) - 1] = True
    tokens = (shard(x, "BS", model.mesh) for x in (batch.prefix_ZS, batch.tokens_NT))
    read = _score(
        model, *tokens, batch.length_Z, batch.prefix_N, batch.place_P, batch.target_PC,
        np.int32(batch.blocks), is_exit_L, block=batch.block,
    )  # fmt: skip
    rows = np.asarray(exits) - 1
    logprob_EPC, top_EP = (to_host(array)[rows] for array in read)
    scores = []
    for place_T, column_T, token_T in batch.read_at:
        logprob_ET = np.array(logprob_EPC[:, place_T, column_T])
        scores.append(Scores(logprob_ET, top_EP[:, place_T] == token_T))
    return scores


@functools.partial(jax.jit, static_argnames="block")
def _score(
    model: Mistral,
    prefix_ZS: Int[Array, "Z S"],
    tokens_NT: Int[Array, "N T"],
    length_Z: Int[Array, " Z"],
    prefix_N: Int[Array, " N"],
    place_P: Int[Array, " P"],
    target_PC: Int[Array, "P C"],
    blocks: Int[Array, ""],
    is_exit_L: Bool[Array, " L"],
    *,
    block: int,
) -> tuple[Float[Array, "L P C"], Int[Array, "L P"]]:
    """Log-probabilities of target tokens, and the most probable token, after each layer.

    Args:
        model: the model.
        prefix_ZS: prefixes, right-padded.
        tokens_NT: continuations without their last tokens, right-padded.
        length_Z: the real lengths of the prefixes.
        prefix_N: the prefix of each continuation.
        place_P: where to read: the end of prefix z is place z, token t of row n is Z + n T + t.
        target_PC: tokens whose log-probabilities are read at each place.
        blocks: how many blocks of places are read; the places after them are padding.
        is_exit_L: after which layers to read; zeros elsewhere.
        block: how many places are read at once.
    """
    S, (N, T) = prefix_ZS.shape[1], tokens_NT.shape
    prefix_rotation = model.position_inputs(S)
    length_N = length_Z[prefix_N]
    rotation = model.rope_at(length_N[:, None] + jnp.arange(T))

    def continue_rows(h_NTD, block: Block, k_ZSKH, v_ZSKH):
        q_NTQH, k_NTKH, v_NTKH = block.project(h_NTD, *rotation)
        prefix = k_ZSKH[prefix_N], v_ZSKH[prefix_N]
        mixed_NTQH = _attend_both(q_NTQH, prefix, (k_NTKH, v_NTKH), length_N, block.window)
        return constrain(block.finish(h_NTD, mixed_NTQH), "BSD", model.mesh)

    def run_layer(carry, block: Block, i, is_exit):
        prefix_ZSD, h_NTD = carry
        prefix_ZSD, (k_ZSKH, v_ZSKH) = block(prefix_ZSD, *prefix_rotation)
        prefix_ZSD = constrain(prefix_ZSD, "BSD", model.mesh)
        if T:
            h_NTD = continue_rows(h_NTD, block, k_ZSKH, v_ZSKH)
        last_Z1 = jnp.maximum(length_Z - 1, 0)[:, None, None]
        end_ZD = jnp.take_along_axis(prefix_ZSD, last_Z1, axis=1)[:, 0]
        h_RD = jnp.concatenate([end_ZD, h_NTD.reshape(N * T, h_NTD.shape[-1])])
        return (prefix_ZSD, h_NTD), jax.lax.cond(is_exit, read, read_nothing, h_RD, i)

    P, C = target_PC.shape
    nothing = jnp.zeros((P, C), jnp.float32), jnp.zeros(P, jnp.int32)

    def read_nothing(h_RD, i):
        return nothing

    def read(h_RD, i):
        def read_block(number, arrays):
            place_R, target_RC = (
                jax.lax.dynamic_slice_in_dim(x, number * block, block) for x in (place_P, target_PC)
            )
            # Places are sharded as prompts are.
            logits_RV = constrain(model.unembed(h_RD[place_R], i + 1), "BV", model.mesh)
            target_RC = jnp.take_along_axis(logits_RV, target_RC, axis=-1)
            logprob_RC = target_RC - jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
            update = jax.lax.dynamic_update_slice_in_dim
            return tuple(
                update(array, part, number * block, axis=0)
                for array, part in zip(arrays, (logprob_RC, argmax(logits_RV)), strict=True)
            )

        return jax.lax.fori_loop(0, blocks, read_block, nothing)

    start = (model.embed_tokens(prefix_ZS), model.embed_tokens(tokens_NT))
    return over_layers(model, run_layer, start, is_exit_L)[1]


def _attend_both(
    q_NTQH: Float[Array, "N T Q H"],
    prefix: tuple[Float[Array, "N S K H"], Float[Array, "N S K H"]],
    own: tuple[Float[Array, "N T K H"], Float[Array, "N T K H"]],
    length_N: Int[Array, " N"],
    window: int | Int[Array, ""] | None,
) -> Float[Array, "N T Q H"]:
    """Attention of continuations over the keys and values of their prefixes and over their own."""
    N, T, Q, H = q_NTQH.shape
    S, K = prefix[0].shape[1:3]
    keys = [[array.swapaxes(1, 2) for array in part] for part in (prefix, own)]

    def attend(query_U, q_NUQH):
        """Some of the queries, as rows that share a key head."""
        U = len(query_U)
        q_NKRH = q_NUQH.reshape(N, U, K, Q // K, H).transpose(0, 2, 3, 1, 4).reshape(N, K, -1, H)
        before_NUS = jnp.broadcast_to(jnp.arange(S), (1, U, S)) < length_N[:, None, None]
        own_1UT = (jnp.arange(T) <= query_U[:, None])[None]
        if window is not None:
            position_NU = length_N[:, None] + query_U
            before_NUS &= jnp.arange(S) > position_NU[..., None] - window
            own_1UT &= jnp.arange(T) > query_U[:, None] - window
        parts = [
            attend_part(q_NKRH, k, v, jnp.tile(seen, (1, Q // K, 1))[:, None])
            for (k, v), seen in zip(keys, (before_NUS, own_1UT), strict=True)
        ]
        mixed_NKRH = merge_parts(*parts).astype(q_NTQH.dtype)
        mixed_NKGUH = mixed_NKRH.reshape(N, K, Q // K, U, H)
        return mixed_NKGUH.transpose(0, 3, 1, 2, 4).reshape(N, U, Q, H)

    if T <= QUERIES:
        return attend(jnp.arange(T), q_NTQH)
    parts = jnp.arange(T).reshape(-1, QUERIES), jnp.stack(jnp.split(q_NTQH, T // QUERIES, axis=1))
    mixed_parts = jax.lax.map(lambda part: attend(*part), parts)
    return jnp.concatenate(list(mixed_parts), axis=1)
