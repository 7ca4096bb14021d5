"""Log-probabilities of the tokens of a text at full depth."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard, to_host

# Positions that are unembedded at once: bounds the memory of logits, not the result.
CHUNK = 16


def token_logprobs(
    model: Mistral, tokens_BS: Int[AnyArray, "B S"], lengths_B: Int[AnyArray, " B"]
) -> Float[np.ndarray, "B S"]:
    """Natural log-probability of each token given those before it, at full depth, float32.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, texts right-padded with any id of the vocabulary.
        lengths_B: the real length of each text, 1..S.

    Returns:
        NaN at the first token, which none precedes, and beyond each length.

    Raises:
        InputError: a length or token id is out of range, or S is longer than the model allows.
    """
    check_tokens(model, tokens_BS, lengths_B)
    scores_BS = np.array(to_host(_token_logprobs(model, shard(tokens_BS, "BS", model.mesh))))
    positions_S = np.arange(scores_BS.shape[1])
    scores_BS[(positions_S == 0) | (positions_S >= np.asarray(lengths_B)[:, None])] = np.nan
    return scores_BS


@jax.jit
def _token_logprobs(model: Mistral, tokens_BS: Int[Array, "B S"]) -> Float[Array, "B S"]:
    B, S = tokens_BS.shape
    h_BSD, _ = scan_layers(model, model.embed_tokens(tokens_BS), lambda _: None)
    # The last position predicts nothing; padding makes whole chunks.
    chunks = -(-S // CHUNK)
    padding = chunks * CHUNK - S
    next_BS = jnp.pad(tokens_BS[:, 1:], ((0, 0), (0, padding + 1)))
    h_BSD = jnp.pad(h_BSD, ((0, 0), (0, padding), (0, 0)))

    def score_chunk(chunk):
        def take(array):
            return jax.lax.dynamic_slice_in_dim(array, chunk * CHUNK, CHUNK, axis=1)

        logits_BSV = model.unembed(take(h_BSD))
        chosen_BS = jnp.take_along_axis(logits_BSV, take(next_BS)[..., None], -1)[..., 0]
        return chosen_BS - jax.nn.logsumexp(logits_BSV, axis=-1)

    chunk_scores = jax.lax.map(score_chunk, jnp.arange(chunks))
    scores_BS = chunk_scores.swapaxes(0, 1).reshape(B, -1)[:, : S - 1]
    return jnp.pad(scores_BS, ((0, 0), (1, 0)))
