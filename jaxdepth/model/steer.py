"""Steering: change the residual stream along a direction after some of the layers.

An exit sees the change if the layer that it follows, or one before, is steered.
Source: Arditi et al. 2024 (arXiv:2406.11717), directional ablation and activation addition.
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral, Steering


def steer(
    model: Mistral,
    direction_D: Float[np.ndarray, " D"],
    layers: Sequence[int],
    how: Literal["ablate", "add", "set"],
    scale: float = 1.0,
) -> Mistral:
    """The model with the residual stream h changed after some layers, at every position.

    One compiled program serves every direction, choice of layers, method and scale.

    Args:
        model: left unchanged. The new one shares its arrays; an earlier steering is replaced.
        direction_D: of any length above 0.
        layers: after which layers, each 1..L; empty changes nothing.
        how: "ablate": h - scale (h . r) r, with r the unit vector; "add": h + scale direction;
            "set": h + (scale - h . r) r, so that all streams have the same part along r.
        scale: 1 removes the direction, or adds it in its own length, and 0 changes nothing; of
            "set" it is the part along r itself.

    Raises:
        InputError: the direction is of another width, zero or not finite; a layer is out of range;
            the scale is not finite.
    """
    L, D = model.config.num_hidden_layers, model.config.hidden_size
    direction_D = np.asarray(direction_D, np.float64)
    _check(direction_D, D, layers, L, scale)
    length = float(np.linalg.norm(direction_D))
    gain, shift = {
        "ablate": (-scale, 0.0),
        "add": (0.0, scale * length),
        "set": (-1.0, scale),
    }[how]
    is_steered_L = np.isin(np.arange(1, L + 1), list(layers))
    steered = jax.tree.map(lambda array: array, model)  # new modules, the same arrays
    steered.layers.steering = Steering(
        jnp.asarray(np.tile(direction_D / length, (L, 1)), jnp.float32),
        jnp.asarray(gain * is_steered_L, jnp.float32),
        jnp.asarray(shift * is_steered_L, jnp.float32),
    )
    return steered


def _check(
    direction_D: np.ndarray, width: int, layers: Sequence[int], depth: int, scale: float
) -> None:
    if direction_D.shape != (width,):
        raise InputError(f"a direction of shape {direction_D.shape}, expected ({width},)")
    if not np.isfinite(direction_D).all() or not direction_D.any():
        raise InputError("the direction is zero or not finite: it points nowhere, name another")
    for layer in layers:
        if not 1 <= layer <= depth:
            raise InputError(
                f"layer {layer} is out of range: this model has layers 1 to {depth} to steer after"
            )
    if not math.isfinite(scale):
        raise InputError(f"the scale of steering is {scale}, expected a finite number")
