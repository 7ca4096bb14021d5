"""Loops over layers, and one pass over whole sequences that stacks what is read after each layer.

Truncation is a prefix: the first d layers, then the final norm and the head, see exactly the
residual stream that the full pass has after layer d. So no exit stops this scan. What is read after
every layer is stacked on a leading L axis, and an exit is an index into that.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.model import AnyArray
from jaxdepth.model.cache import LayerCache
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain

Carry = TypeVar("Carry")


class Backward(NamedTuple):
    """How a pass over the layers is made for its gradient."""

    remat: bool = False  # compute each layer again there, which takes less memory and more time
    # The first layers, of which nothing is trained: their gradient is not computed.
    frozen: int = 0


def over_layers(
    model: Mistral,
    run_layer: Callable[..., tuple[Carry, Any]],
    start: Carry,
    *per_layer: Any,
    layers: range | None = None,
    frozen: int = 0,
) -> tuple[Carry, Any]:
    """Run layers in turn: a `lax.scan` over stacked ones, a loop written out over layers apart.

    Args:
        model: the model.
        run_layer: called as `run_layer(carry, block, i, *of_layer)` with a layer, its number,
            counted from 0, and its part of each of `per_layer`; returns the carry and an output.
        start: the carry before the first layer.
        per_layer: pytrees of arrays with a leading axis of the layers that run.
        layers: the numbers of those; each is sliced out of the stacked weights by its number, so
            that some layers are not copied. None runs all, in the form that gradients need.
        frozen: if all layers run, how many of the first have no gradient.

    Returns:
        The carry after the last layer, and the outputs, stacked; of layers apart a `LayerCache` in
        them is a tuple of as many.
    """
    if model.is_apart:
        carry, outputs = start, []
        for n, i in enumerate(layers or range(model.depth)):
            of_layer = jax.tree.map(lambda array, n=n: array[n], per_layer)
            carry, output = run_layer(carry, model.layer(i), np.int32(i), *of_layer)
            outputs.append(output)

        def gather(*of_layers):
            return of_layers if is_cache(of_layers[0]) else jnp.stack(of_layers)

        return carry, jax.tree.map(gather, *outputs, is_leaf=is_cache)

    def step(carry, inputs):
        i, block, of_layer = inputs
        return run_layer(carry, model.layer(i) if block is None else block, i, *of_layer)

    if layers is not None:
        return jax.lax.scan(step, start, (jnp.arange(layers.start, layers.stop), None, per_layer))
    every = jnp.arange(model.depth), model.blocks(), per_layer
    if not frozen:
        return jax.lax.scan(step, start, every)
    below = jax.tree.map(lambda array: array[:frozen], every)
    above = jax.tree.map(lambda array: array[frozen:], every)
    carry, first = jax.lax.stop_gradient(jax.lax.scan(step, start, below))
    carry, rest = jax.lax.scan(step, carry, above)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), first, rest)


def fold_layers(
    model: Mistral,
    run_layer: Callable[..., Carry],
    start: Carry,
    first: Int[Array, ""],
    last: Int[Array, ""],
) -> Carry:
    """`over_layers` from layer `first` to `last - 1`, which may be traced, without outputs."""
    if not model.is_apart:

        def step(i, carry):
            return run_layer(carry, model.layer(i), i)

        return jax.lax.fori_loop(first, last, step, start)
    carry = start
    for i in range(model.depth):
        run = functools.partial(run_layer, block=model.layer(i), i=np.int32(i))
        carry = jax.lax.cond((first <= i) & (i < last), run, lambda carry: carry, carry)
    return carry


def is_cache(tree: Any) -> bool:
    """Whether a part of a pytree is the cache of one layer."""
    return isinstance(tree, LayerCache)


class LayerOutput(NamedTuple):
    """The output of one layer."""

    h_BSD: Float[Array, "B S D"]  # the residual stream after it
    k_BSKH: Float[Array, "B S K H"]
    v_BSKH: Float[Array, "B S K H"]


def scan_layers(
    model: Mistral,
    h_BSD: Float[Array, "B S D"],
    read: Callable[..., Any],
    *per_layer: Any,
    depth: int | None = None,
    keep_LB: Bool[AnyArray, "L B"] | None = None,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> tuple[Float[Array, "B S D"], Any]:
    """Run the layers over embedded sequences, and stack what `read` takes from each.

    Args:
        model: the model.
        h_BSD: the residual stream before the first layer, as `model.embed_tokens` gives it.
        read: called as `read(output, *of_layer)` with a `LayerOutput` and this layer's part of each
            of `per_layer`; returns a pytree of arrays, or None.
        per_layer: pytrees of arrays with a leading L axis.
        depth: how many layers run, as of `over_layers`; None is all.
        keep_LB: the layers that each sequence runs; None is all. The others pass the residual
            stream on (layer dropout).
        backward: how the gradient is made.

    Returns:
        The residual stream after the last layer, and what was read, stacked on a leading L axis.
    """
    rotation = model.position_inputs(h_BSD.shape[1])

    def run_layer(h_BSD, block, _, keep_B, of_layer):
        after_BSD, (k_BSKH, v_BSKH) = block(h_BSD, *rotation)
        after_BSD = constrain(after_BSD, "BSD", model.mesh)
        if keep_B is not None:
            after_BSD = jnp.where(keep_B[:, None, None], after_BSD, h_BSD)
        return after_BSD, read(LayerOutput(after_BSD, k_BSKH, v_BSKH), *of_layer)

    run_layer = jax.checkpoint(run_layer) if backward.remat else run_layer
    h_BSD = constrain(h_BSD, "BSD", model.mesh)
    layers = None if depth is None else range(depth)
    return over_layers(
        model, run_layer, h_BSD, keep_LB, per_layer, layers=layers, frozen=backward.frozen
    )


def at_positions(
    h_BSD: Float[Array, "B S D"], positions_B: Int[Array, " B"]
) -> Float[Array, "B D"]:
    """The residual stream at one position of each sequence, on the device that has the sequence."""
    return jnp.take_along_axis(h_BSD, positions_B[:, None, None], axis=1)[:, 0]


def at_exits(h_LBD: Float[Array, "L B D"], exits: Int[Array, "*E"]) -> Float[Array, "*E B D"]:
    """The residual stream after each of some exits, which may be traced; NaN out of 1..L."""
    is_valid = (exits >= 1) & (exits <= len(h_LBD))
    return jnp.where(is_valid[..., None, None], h_LBD[exits - 1], jnp.nan)
