"""What linear probes say at every token of a sequence and after every layer, from one pass.

Nothing of the stream is kept: each prompt has its own probes, and only their decision values leave
the device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard


def scores_along(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    weights_BTJD: Float[np.ndarray, "B T J D"],
    bias_BTJ: Float[np.ndarray, "B T J"],
    middle_JD: Float[np.ndarray, "J D"],
) -> Float[Array, "B T J S"]:
    """Decision values x @ w + b of T probes a prompt at every token and layer, float32.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, right-padded with any id of the vocabulary.
        lengths_B: the real length of each sequence; what stands beyond it means nothing.
        weights_BTJD: the probes of each prompt, for the stream in its own units.
        bias_BTJ: their constants.
        middle_JD: any point near the stream, such as its mean: sums are taken from there, because
            features that dwarf those that a probe reads cancel badly in float32.

    Raises:
        InputError: a token id or length is out of range.
    """
    check_tokens(model, tokens_BS, lengths_B)
    weights_BTJD = np.asarray(weights_BTJD, np.float32)
    constant_BTJ = bias_BTJ + np.einsum("btjd,jd->btj", weights_BTJD, middle_JD, dtype=np.float64)
    return _scores(
        model,
        shard(tokens_BS, "BS", model.mesh),
        shard(np.moveaxis(weights_BTJD, 2, 0), "JBTD", model.mesh),
        shard(np.moveaxis(constant_BTJ, 2, 0).astype(np.float32), "JBT", model.mesh),
        jnp.asarray(middle_JD, jnp.float32),
    )


@jax.jit
def _scores(model, tokens_BS, weights_JBTD, constant_JBT, middle_JD):
    def read(h_BSD, weights_BTD, constant_BT, middle_D):
        away_BSD = h_BSD.astype(jnp.float32) - middle_D
        highest = jax.lax.Precision.HIGHEST
        found_BTS = jnp.einsum("bsd,btd->bts", away_BSD, weights_BTD, precision=highest)
        return found_BTS + constant_BT[..., None]

    probes = weights_JBTD, constant_JBT, middle_JD
    h_BSD = model.embed_tokens(tokens_BS)
    first_BTS = read(h_BSD, *(a[0] for a in probes))
    _, after_LBTS = scan_layers(
        model, h_BSD, lambda output, *probes: read(output.h_BSD, *probes), *(a[1:] for a in probes)
    )
    return jnp.moveaxis(jnp.concatenate([first_BTS[None], after_LBTS]), 0, 2)
