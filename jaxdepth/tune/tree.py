"""Sequences as one tree of tokens: what they begin with in common passes through the layers once.

Every prompt begins with the template's system prompt, and batches of whole sequences are padded to
the longest. A tree has neither: each token attends to its ancestors, at the position of its depth.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.model import AnyArray
from jaxdepth.model.attention import attend_seen
from jaxdepth.model.mistral import Block, Mistral


class Tree(NamedTuple):
    """Tokens, each of which follows its ancestors."""

    tokens_N: Int[AnyArray, " N"]
    depth_N: Int[AnyArray, " N"]  # its position in its sequences
    seen_NN: Bool[AnyArray, "N N"]  # whether the second is an ancestor of the first, or itself


def grow(sequences: Sequence[Sequence[int]]) -> tuple[Tree, list[list[int]]]:
    """The tree of some sequences, and the node of each of their tokens."""
    node_of: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    parents: list[int] = []
    tokens, depths, nodes = [], [], []
    for sequence in sequences:
        parent, path = -1, []
        for depth, token in enumerate(sequence):
            node = node_of.setdefault((parent, token), len(parents))
            if node == len(parents):
                parents.append(parent)
                tokens.append(token)
                depths.append(depth)
            parent = node
            path.append(node)
        nodes.append(path)
    seen_NN = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):  # parents come first
        if parent >= 0:
            seen_NN[node] |= seen_NN[parent]
    return Tree(np.array(tokens, np.int32), np.array(depths, np.int32), seen_NN), nodes


def pad(tree: Tree, size: int) -> Tree:
    """The tree with tokens added that see only themselves, to `size` tokens."""
    more = size - len(tree.tokens_N)
    seen_NN = np.pad(tree.seen_NN, (0, more)) | np.eye(size, dtype=bool)
    return Tree(np.pad(tree.tokens_N, (0, more)), np.pad(tree.depth_N, (0, more)), seen_NN)


def scan_tree(
    model: Mistral,
    tree: Tree,
    read: Callable[[Float[Array, "N D"]], Any],
    *,
    remat: bool = False,
) -> Any:
    """Run all layers over a tree, and stack what `read` takes of the residual stream after each.

    Args:
        model: the model, on one device.
        tree: the tokens.
        read: returns a pytree of arrays.
        remat: compute each layer again for its gradient, which takes less memory and more time.
    """
    depth_N, all_seen_NN = jnp.asarray(tree.depth_N), jnp.asarray(tree.seen_NN)
    rotation = model.rope_at(depth_N)
    behind_NN = depth_N[:, None] - depth_N[None]

    def run_layer(h_ND, block: Block):
        q, k, v = block.project(h_ND, *rotation)
        seen_NN, window = all_seen_NN, block.window
        if window is not None:
            seen_NN &= behind_NN < window
        mixed_NQH = attend_seen(q[None], k[None], v[None], seen_NN[None])[0]
        h_ND = block.finish(h_ND, mixed_NQH)
        return h_ND, read(h_ND)

    run_layer = jax.checkpoint(run_layer) if remat else run_layer
    return jax.lax.scan(run_layer, model.embed_tokens(tree.tokens_N), model.blocks())[1]
