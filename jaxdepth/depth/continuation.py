"""Log-probabilities of continuations at full depth, where several continue one prefix.

Answers of all exits to one prompt have that prompt in common. Each prefix passes through the layers
once, and its keys and values serve every row that continues it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.layer_scan import over_layers
from jaxdepth.errors import InputError
from jaxdepth.model import Ints
from jaxdepth.model.attention import attend_part, merge_parts
from jaxdepth.model.mistral import Block, Mistral
from jaxdepth.model.sharding import constrain, shard, to_host, whole_rows

# Lengths are padded to multiples of these, and prefixes to these counts, so that few programs
# compile.
_PREFIX_MULTIPLE, _MULTIPLE = 16, 8
_PREFIX_COUNTS = (1, 8)


def continuation_logprobs(
    model: Mistral,
    prefixes: Sequence[Ints],
    continuations: Sequence[Ints],
    prefix_of: Sequence[int],
    batch_size: int = 32,
) -> list[Float[np.ndarray, " T"]]:
    """Natural log-probability of every token of each continuation, at full depth.

    Args:
        model: a model from `jaxdepth.load`.
        prefixes: token ids of each prefix; one may be empty.
        continuations: token ids of N continuations; one may be empty.
        prefix_of: the index of each continuation's prefix.
        batch_size: continuations per forward pass.

    Returns:
        N arrays, float32. The first token after an empty prefix has NaN: nothing precedes it.

    Raises:
        InputError: a prefix with its continuation is longer than the model allows, or a token is
            not in the vocabulary.
    """
    _check(model, prefixes, continuations, prefix_of)
    scores = [np.zeros(0, np.float32)] * len(continuations)
    longest = max(map(len, continuations), default=0)
    # Rows of similar length, with prefixes of similar length, and those of one prefix together.
    order = sorted(
        (n for n in range(len(continuations)) if len(continuations[n])),
        key=lambda n: (
            2 * len(continuations[n]) > longest,
            -(-len(prefixes[prefix_of[n]]) // _PREFIX_MULTIPLE),
            prefix_of[n],
        ),
    )
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        used = list(dict.fromkeys(prefix_of[n] for n in rows))
        counts = (*_PREFIX_COUNTS, batch_size)
        count = next(count for count in counts if len(used) <= count)
        prefix_ZS = _padded([prefixes[z] for z in used], count, _PREFIX_MULTIPLE, model)
        tokens_NT = _padded([continuations[n] for n in rows], batch_size, _MULTIPLE, model)
        lengths_Z = np.zeros(len(prefix_ZS), np.int32)
        lengths_Z[: len(used)] = [len(prefixes[z]) for z in used]
        prefix_N = np.zeros(len(tokens_NT), np.int32)
        prefix_N[: len(rows)] = [used.index(prefix_of[n]) for n in rows]
        scores_NT = to_host(
            _continuation_logprobs(
                model, *(shard(x, "BS", model.mesh) for x in (prefix_ZS, tokens_NT)),
                lengths_Z, prefix_N,
            )
        )  # fmt: skip
        for row, n in enumerate(rows):
            scores[n] = np.array(scores_NT[row, : len(continuations[n])])
            if not len(prefixes[prefix_of[n]]):
                scores[n][0] = np.nan
    return scores


def _check(
    model: Mistral,
    prefixes: Sequence[Ints],
    continuations: Sequence[Ints],
    prefix_of: Sequence[int],
) -> None:
    config = model.config
    for n, tokens in enumerate(continuations):
        length = len(prefixes[prefix_of[n]]) + len(tokens)
        if length > config.max_position_embeddings:
            raise InputError(
                f"a prompt with its answer is {length} tokens long, the model allows "
                f"{config.max_position_embeddings}"
            )
    for tokens in (*prefixes, *continuations):
        wrong = [t for t in tokens if not 0 <= t < config.vocab_size]
        if wrong:
            raise InputError(f"token {wrong[0]} is not in the vocabulary of {config.vocab_size}")


def _padded(
    sequences: Sequence[Ints], count: int, multiple: int, model: Mistral
) -> Int[np.ndarray, "N T"]:
    """Token ids in at least `count` rows, padded on the right to a multiple of some length."""
    size = max(1, -(-max(map(len, sequences)) // multiple)) * multiple
    padded = np.zeros((whole_rows(count, model.mesh), size), np.int32)
    for row, tokens in enumerate(sequences):
        padded[row, : len(tokens)] = tokens
    return padded


@jax.jit
def _continuation_logprobs(
    model: Mistral,
    prefix_ZS: Int[Array, "Z S"],
    tokens_NT: Int[Array, "N T"],
    lengths_Z: Int[Array, " Z"],
    prefix_N: Int[Array, " N"],
) -> Float[Array, "N T"]:
    S, T = prefix_ZS.shape[1], tokens_NT.shape[1]
    length_N = lengths_Z[prefix_N]
    prefix_rotation = model.position_inputs(S)
    rotation = model.rope_at(length_N[:, None] + jnp.arange(T))

    def run_layer(carry, block: Block, _):
        prefix_ZSD, h_NTD = carry
        prefix_ZSD, (k_ZSKH, v_ZSKH) = block(prefix_ZSD, *prefix_rotation)
        q_NTQH, k_NTKH, v_NTKH = block.project(h_NTD, *rotation)
        query_T, window = jnp.arange(T), block.window
        before_NTS = jnp.broadcast_to(jnp.arange(S), (1, T, S)) < length_N[:, None, None]
        own_1TT = (query_T <= query_T[:, None])[None]
        if window is not None:
            position_NT = length_N[:, None] + query_T
            before_NTS &= jnp.arange(S) > position_NT[..., None] - window
            own_1TT &= query_T > query_T[:, None] - window
        mixed_NTQH = _attend_both(
            q_NTQH,
            (k_ZSKH[prefix_N], v_ZSKH[prefix_N], before_NTS),
            (k_NTKH, v_NTKH, own_1TT),
        )
        h_NTD = constrain(block.finish(h_NTD, mixed_NTQH), "BSD", model.mesh)
        return (constrain(prefix_ZSD, "BSD", model.mesh), h_NTD), None

    start = (model.embed_tokens(prefix_ZS), model.embed_tokens(tokens_NT))
    (prefix_ZSD, h_NTD), _ = over_layers(model, run_layer, start)
    # Each token is predicted at the position before it; the first, at the end of the prefix.
    last_N1D = prefix_ZSD[prefix_N, jnp.maximum(length_N - 1, 0)][:, None]
    before_NTD = jnp.concatenate([last_N1D, h_NTD[:, :-1]], axis=1)

    def score(position):
        h_ND, token_N = (jnp.take(x, position, axis=1) for x in (before_NTD, tokens_NT))
        logits_NV = model.unembed(h_ND, model.depth)
        chosen_N = jnp.take_along_axis(logits_NV, token_N[:, None], -1)[:, 0]
        return chosen_N - jax.nn.logsumexp(logits_NV, axis=-1)

    return jax.lax.map(score, jnp.arange(T)).T  # one position at a time: logits take memory


def _attend_both(q_NTQH: Float[Array, "N T Q H"], *parts: tuple) -> Float[Array, "N T Q H"]:
    """Attention over the keys of a prefix and over a row's own, as rows that share a key head."""
    N, T, Q, H = q_NTQH.shape
    K = parts[0][0].shape[2]
    q_NKRH = q_NTQH.reshape(N, T, K, Q // K, H).transpose(0, 2, 3, 1, 4).reshape(N, K, -1, H)

    def part(k_NSKH, v_NSKH, seen_NTS):
        seen_NKRS = jnp.tile(seen_NTS, (1, Q // K, 1))[:, None]
        return attend_part(q_NKRH, k_NSKH.swapaxes(1, 2), v_NSKH.swapaxes(1, 2), seen_NKRS)

    mixed_NKRH = merge_parts(*(part(*each) for each in parts)).astype(q_NTQH.dtype)
    return mixed_NKRH.reshape(N, K, Q // K, T, H).transpose(0, 3, 1, 2, 4).reshape(N, T, Q, H)
