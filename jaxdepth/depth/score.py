"""How probable a text is to a model at full depth, token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard, to_host

# Positions that are unembedded at once: bounds the logits that are held, not the result.
CHUNK = 16


def token_logprobs(
    model: Mistral, tokens_BS: Int[Array, "B S"], lengths_B: Int[Array, " B"]
) -> Float[np.ndarray, "B S"]:
    """Natural log-probability of each token given those before it, at full depth, float32.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, texts right-padded with any id of the vocabulary.
        lengths_B: the real length of each text, 1..S.

    Returns:
        NaN at the first token, which nothing comes before, and beyond each length.

    Raises:
        InputError: a length or token id is out of range, or S is longer than the model allows.
    """
    check_tokens(model, tokens_BS, lengths_B)
    scores_BS = np.array(to_host(_token_logprobs(model, shard(tokens_BS, "BS", model.mesh))))
    places_S = np.arange(scores_BS.shape[1])
    scores_BS[(places_S == 0) | (places_S >= np.asarray(lengths_B)[:, None])] = np.nan
    return scores_BS


@jax.jit
def _token_logprobs(model, tokens_BS):
    B, S = tokens_BS.shape
    h_BSD, _ = scan_layers(model, model.embed_tokens(tokens_BS), lambda _: None)
    # The last position predicts nothing; padding makes whole chunks.
    chunks = -(-S // CHUNK)
    short = chunks * CHUNK - S
    next_BS = jnp.pad(tokens_BS[:, 1:], ((0, 0), (0, short + 1)))
    h_BSD = jnp.pad(h_BSD, ((0, 0), (0, short), (0, 0)))

    def score(place):
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=place * CHUNK, axis=1)
        logits_BCV = model.unembed(cut(h_BSD, slice_size=CHUNK))
        chosen_BC = jnp.take_along_axis(logits_BCV, cut(next_BS, slice_size=CHUNK)[..., None], -1)
        return chosen_BC[..., 0] - jax.nn.logsumexp(logits_BCV, axis=-1)

    scores_CBs = jax.lax.map(score, jnp.arange(chunks))
    scores_BS = scores_CBs.swapaxes(0, 1).reshape(B, -1)[:, : S - 1]
    return jnp.pad(scores_BS, ((0, 0), (1, 0)))
