"""Sequences packed into rows: what most of them begin with runs once, and little is padding.

Every prompt begins with the template's system prompt, and batches of whole sequences are padded to
the longest. Here that common beginning, the trunk, stands first, and what follows it is packed into
rows. Attention is between a row and the trunk and within a row, each token seeing its own sequence.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.layer_scan import Backward, over_layers
from jaxdepth.model import AnyArray
from jaxdepth.model.attention import attend_seen
from jaxdepth.model.mistral import Block, Mistral

# Lengths of the trunk and of rows, and the number of rows, are rounded up to multiples of these, as
# each compiles a program.
_TRUNK, _ROW, _COUNT = 32, 128, 2


class Packed(NamedTuple):
    """P tokens of the trunk, then R rows of C tokens; tokens of padding see themselves alone."""

    tokens_N: Int[AnyArray, " N"]  # N is P + R * C
    positions_N: Int[AnyArray, " N"]  # of each token in its sequence
    seen_PP: Bool[AnyArray, "P P"]  # which tokens of the trunk each of them sees
    seen_RCK: Bool[AnyArray, "R C K"]  # which tokens of the trunk and its row; K is P + C


class Blind(NamedTuple):
    """A token that does not see the first tokens of its sequence."""

    sequence: int
    place: int
    unseen: int  # how many


def pack(
    sequences: Sequence[Sequence[int]], blind: Sequence[Blind] = ()
) -> tuple[Packed, list[list[int]]]:
    """Pack sequences; also the place of each of their tokens."""
    trunk = _trunk(sequences)
    shared = [_shared(sequence, trunk) for sequence in sequences]
    rests = [len(sequence) - n for sequence, n in zip(sequences, shared, strict=True)]
    P, C = (_round_up(max(1, n), step) for n, step in ((len(trunk), _TRUNK), (max(rests), _ROW)))
    starts, used = _first_fit(rests, C)
    packed = _empty(P, _round_up(used, _COUNT), C)
    packed.tokens_N[: len(trunk)] = trunk
    packed.positions_N[:P] = np.arange(P)
    packed.seen_PP[: len(trunk)] = np.tri(P, dtype=bool)[: len(trunk)]
    places = []
    for ids, n, rest, (r, c) in zip(sequences, shared, rests, starts, strict=True):
        first = P + r * C + c
        here, row = slice(first, first + rest), slice(c, c + rest)
        packed.tokens_N[here], packed.positions_N[here] = ids[n:], n + np.arange(rest)
        packed.seen_RCK[r, row, :n] = True
        packed.seen_RCK[r, row, P + c : P + c + rest] = np.tri(rest, dtype=bool)
        places.append([*range(n), *range(here.start, here.stop)])
    for b, place, unseen in blind:
        r, c = divmod(places[b][place] - P, C)
        assert r >= 0, "a token of the trunk cannot be blind in one sequence alone"
        keys = np.array(places[b][:unseen], int)
        packed.seen_RCK[r, c, np.where(keys < P, keys, P + (keys - P) % C)] = False
    return packed, places


def _trunk(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that half of the sequences begin with, two at least."""
    needed, alike = max(2, -(-len(sequences) // 2)), list(sequences)
    trunk: list[int] = []
    while True:
        nexts = Counter(s[len(trunk)] for s in alike if len(s) > len(trunk))
        token, count = nexts.most_common(1)[0] if nexts else (0, 0)
        if count < needed:
            return trunk
        alike = [s for s in alike if len(s) > len(trunk) and s[len(trunk)] == token]
        trunk.append(token)


def _shared(sequence: Sequence[int], trunk: Sequence[int]) -> int:
    """How many tokens of the trunk a sequence begins with."""
    pairs = zip(sequence, trunk, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(sequence), len(trunk)))


def _first_fit(lengths: Sequence[int], C: int) -> tuple[list[tuple[int, int]], int]:
    """The row of each length and its start there, and the number of rows; the longest first."""
    used: list[int] = []
    starts = [(0, 0)] * len(lengths)
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        r = next((r for r, length in enumerate(used) if length + lengths[n] <= C), len(used))
        if r == len(used):
            used.append(0)
        starts[n] = (r, used[r])
        used[r] += lengths[n]
    return starts, len(used)


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _empty(P: int, R: int, C: int) -> Packed:
    seen_RCK = np.zeros((R, C, P + C), bool)
    seen_RCK[:, :, P:] = np.eye(C, dtype=bool)
    zero_N = np.zeros(P + R * C, np.int32)
    return Packed(zero_N, zero_N.copy(), np.eye(P, dtype=bool), seen_RCK)


def pad(packed: Packed, shape: tuple[int, int, int]) -> tuple[Packed, Int[np.ndarray, " N"]]:
    """The same with larger P, R and C, and the new place of each token."""
    (P, R, C), (p, r, c) = shape, shape_of(packed)
    wider, old = _empty(P, R, C), np.arange(p + r * c)
    new = np.where(old < p, old, P + (old - p) // c * C + (old - p) % c)
    wider.tokens_N[new], wider.positions_N[new] = packed.tokens_N, packed.positions_N
    wider.seen_PP[:p, :p] = packed.seen_PP
    wider.seen_RCK[:r, :c, :p] = packed.seen_RCK[:, :, :p]
    wider.seen_RCK[:r, :c, P : P + c] = packed.seen_RCK[:, :, p:]
    return wider, new


def shape_of(packed: Packed) -> tuple[int, int, int]:
    """P, R and C."""
    return len(packed.seen_PP), *packed.seen_RCK.shape[:2]


def scan_packed(
    model: Mistral,
    packed: Packed,
    read: Callable[[Float[Array, "N D"]], Any],
    *,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> Any:
    """Run all layers over packed sequences, and stack what `read` takes of the residual stream.

    Args:
        model: the model, on one device.
        packed: the sequences.
        read: of the residual stream after a layer; returns a pytree of arrays.
        backward: how the gradient is made.
    """
    P, R, C = shape_of(packed)
    tokens_N, positions_N, all_seen_PP, all_seen_RCK = map(jnp.asarray, packed)
    rotation = model.rope_at(positions_N)
    trunk_P, row_RC = positions_N[:P], positions_N[P:].reshape(R, C)
    key_RK = jnp.concatenate([jnp.broadcast_to(trunk_P, (R, P)), row_RC], axis=1)
    behind_PP = trunk_P[:, None] - trunk_P
    behind_RCK = row_RC[:, :, None] - key_RK[:, None]

    def run_layer(h_ND, block: Block, _):
        q, k, v = block.project(h_ND, *rotation)
        seen_PP, seen_RCK, window = all_seen_PP, all_seen_RCK, block.window
        if window is not None:
            seen_PP &= behind_PP < window
            seen_RCK &= behind_RCK < window

        def keys_of_rows(x):
            of_trunk = jnp.broadcast_to(x[:P], (R, *x[:P].shape))
            return jnp.concatenate([of_trunk, x[P:].reshape(R, C, *x.shape[1:])], axis=1)

        mixed_PQH = attend_seen(q[None, :P], k[None, :P], v[None, :P], seen_PP[None])[0]
        q_RCQH = q[P:].reshape(R, C, *q.shape[1:])
        mixed_RCQH = attend_seen(q_RCQH, keys_of_rows(k), keys_of_rows(v), seen_RCK)
        mixed_NQH = jnp.concatenate([mixed_PQH, mixed_RCQH.reshape(R * C, *q.shape[1:])])
        h_ND = block.finish(h_ND, mixed_NQH)
        return h_ND, read(h_ND)

    run_layer = jax.checkpoint(run_layer) if backward.remat else run_layer
    return over_layers(model, run_layer, model.embed_tokens(tokens_N), frozen=backward.frozen)[1]
