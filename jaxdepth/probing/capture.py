"""The residual stream after every layer, at chosen positions, from one pass.

The axis J numbers layers as exits: 0 is the embedding, d the residual stream after d layers, which
exit d unembeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard


def residuals(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    positions_BP: Int[AnyArray, "B P"],
) -> Float[Array, "B P J D"]:
    """The residual stream at P positions of every prompt, at all layers, in the model's dtype.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, right-padded with any id of the vocabulary.
        lengths_B: the real length of each sequence, 1..S.
        positions_BP: positions in each sequence, counted from 0.

    Raises:
        InputError: a token id or length is out of range, or a position lies beyond its sequence.
    """
    check_tokens(model, tokens_BS, lengths_B)
    lengths_B1 = np.asarray(lengths_B)[:, None]
    positions = np.asarray(positions_BP)
    if positions.ndim != 2 or len(positions) != len(lengths_B1):
        raise InputError(f"positions of shape {positions.shape}, expected (B, P)")
    if ((positions < 0) | (positions >= lengths_B1)).any():
        raise InputError("a position lies beyond its sequence: positions count from 0")
    tokens_BS = shard(tokens_BS, "BS", model.mesh)
    return _residuals(model, tokens_BS, shard(positions, "BP", model.mesh))


@jax.jit
def _residuals(
    model: Mistral, tokens_BS: Int[Array, "B S"], positions_BP: Int[Array, "B P"]
) -> Float[Array, "B P J D"]:
    def pick(h_BSD):
        return jnp.take_along_axis(h_BSD, positions_BP[..., None], axis=1)

    h_BSD = model.embed_tokens(tokens_BS)
    _, after_LBPD = scan_layers(model, h_BSD, lambda output: pick(output.h_BSD))
    return jnp.moveaxis(jnp.concatenate([pick(h_BSD)[None], after_LBPD]), 0, 2)
