"""Decision values of linear probes at every token and after every layer, from one pass.

Each prompt has its own probes. Only their decision values leave the device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.model import AnyArray
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard


def scores_along(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    weights_BUJD: Float[np.ndarray, "B U J D"],
    bias_BUJ: Float[np.ndarray, "B U J"],
    middle_JD: Float[np.ndarray, "J D"],
) -> Float[Array, "B U J S"]:
    """Decision values x @ w + b of U probes per prompt at every token and layer, float32.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, right-padded with any id of the vocabulary.
        lengths_B: the real length of each sequence; values beyond it are meaningless.
        weights_BUJD: the probes of each prompt, for the unscaled residual stream.
        bias_BUJ: their constants.
        middle_JD: a point near the residual stream, such as its mean. It is subtracted first: large
            features that a probe does not read would cost precision in float32.

    Raises:
        InputError: a token id or length is out of range.
    """
    check_tokens(model, tokens_BS, lengths_B)
    weights_BUJD = np.asarray(weights_BUJD, np.float32)
    constant_BUJ = bias_BUJ + np.einsum("bujd,jd->buj", weights_BUJD, middle_JD, dtype=np.float64)
    return _scores(
        model,
        shard(tokens_BS, "BS", model.mesh),
        shard(np.moveaxis(weights_BUJD, 2, 0), "JBUD", model.mesh),
        shard(np.moveaxis(constant_BUJ, 2, 0).astype(np.float32), "JBU", model.mesh),
        jnp.asarray(middle_JD, jnp.float32),
    )


@jax.jit
def _scores(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    weights_JBUD: Float[Array, "J B U D"],
    constant_JBU: Float[Array, "J B U"],
    middle_JD: Float[Array, "J D"],
) -> Float[Array, "B U J S"]:
    def score(h_BSD, weights_BUD, constant_BU, middle_D):
        centred_BSD = h_BSD.astype(jnp.float32) - middle_D
        highest = jax.lax.Precision.HIGHEST
        score_BUS = jnp.einsum("bsd,bud->bus", centred_BSD, weights_BUD, precision=highest)
        return score_BUS + constant_BU[..., None]

    probes = weights_JBUD, constant_JBU, middle_JD
    h_BSD = model.embed_tokens(tokens_BS)
    first_BUS = score(h_BSD, *(a[0] for a in probes))
    _, after_LBUS = scan_layers(
        model, h_BSD, lambda output, *probes: score(output.h_BSD, *probes), *(a[1:] for a in probes)
    )
    return jnp.moveaxis(jnp.concatenate([first_BUS[None], after_LBUS]), 0, 2)
