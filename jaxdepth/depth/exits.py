"""Logits at any exit from one pass, with the exit traced.

An exit does not stop the scan over layers: it is an index into what the scan stacks. So the scan
does not depend on the exit, and under `jax.vmap` over exits all of them cost about one pass.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxdepth.depth.layer_scan import at_exits, at_positions, scan_layers
from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray, Ints
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard


def exit_logits(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    exit: int | np.integer | Int[AnyArray, ""],
) -> Float[Array, "B V"]:
    """Next-token logits after each prompt when only the first `exit` layers run.

    Compiled once per shape of `tokens_BS`; every exit uses the same program. To get many exits for
    about the price of one pass, vmap it: `jax.vmap(exit_logits, in_axes=(None, None, None, 0))`.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        exit: how many layers run, 1..L; may be traced.

    Returns:
        Float32 logits at the last real position of each prompt. A traced exit or length that is out
        of range gives NaN, never a plausible number.

    Raises:
        InputError: a concrete exit, length or token id is out of range, or S is longer than the
            model allows.
    """
    check_tokens(model, tokens_BS, lengths_B)
    check_exits(exit, model.config.num_hidden_layers)
    return _exit_logits(
        model,
        shard(tokens_BS, "BS", model.mesh),
        shard(lengths_B, "B", model.mesh),
        jnp.asarray(exit, jnp.int32),
    )


@jax.jit
def _exit_logits(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exit_layer: Int[Array, ""],
) -> Float[Array, "B V"]:
    return model.unembed(exit_hidden(model, tokens_BS, lengths_B, exit_layer), exit_layer)


def exit_hidden(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    exit_layer: Int[Array, ""],
) -> Float[Array, "B D"]:
    """The residual stream after layer `exit_layer` at each prompt's end; NaN out of range."""
    S = tokens_BS.shape[1]
    last_B = jnp.clip(lengths_B - 1, 0, S - 1)
    _, last_LBD = scan_layers(
        model,
        model.embed_tokens(tokens_BS),
        lambda output: at_positions(output.h_BSD, last_B),
    )
    valid_B = (lengths_B >= 1) & (lengths_B <= S)
    return jnp.where(valid_B[:, None], at_exits(last_LBD, exit_layer), jnp.nan)


_MAX_DIGITS = 9


def parse_exits(text: str, depth: int, what: str = "exit") -> list[int]:
    """Parse exits from the command line: `all`, or numbers and ranges such as `1,8,16-30`.

    Args:
        text: the argument.
        depth: the deepest exit, L.
        what: their name in an error message; layers are written like exits.

    Returns:
        The exits in ascending order, each once.

    Raises:
        InputError: the text cannot be read, or an exit is not in 1..depth.
    """
    if text.strip() == "all":
        return list(range(1, depth + 1))
    exits: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise InputError(
                f"{what}s {text!r}: {part.strip()!r} is no number or range (try 1,8,16-30)"
            )
        if max(len(first), len(last)) > _MAX_DIGITS:
            raise InputError(f"{what}s {text[:60]!r}: expected 1 to {depth}")
        low, high = int(first), int(last) if dash else int(first)
        if low > high:
            raise InputError(f"{what}s {text!r}: the range {part.strip()!r} runs backwards")
        for end in (low, high):
            check_exits(end, depth, what)
        exits.update(range(low, high + 1))
    return sorted(exits)


def check_exits(exits: ArrayLike | Ints, depth: int, what: str = "exit") -> None:
    """Raise InputError if a concrete exit, or any of several, is not in 1..depth."""
    if isinstance(exits, jax.core.Tracer):
        return
    values = np.asarray(exits)  # numpy: these checks also run while a caller is being traced
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{what} {exits} is not a whole number")
    for value in values.ravel().tolist():
        if not 1 <= value <= depth:
            raise InputError(f"{what} {value} is out of range: this model has {what}s 1 to {depth}")


def check_tokens(model: Mistral, tokens_BS: ArrayLike, lengths_B: ArrayLike) -> None:
    """Raise InputError for token ids or lengths that do not fit the model or each other."""
    shape, limit = np.shape(tokens_BS), model.config.max_position_embeddings
    if len(shape) != 2 or np.shape(lengths_B) != shape[:1]:
        raise InputError(
            f"tokens of shape {shape} with lengths of shape {np.shape(lengths_B)}; expected (B, S)"
            " and (B,)"
        )
    if shape[1] > limit:
        raise InputError(
            f"{shape[1]} tokens, but this model takes at most {limit}: shorten prompts"
        )
    if not isinstance(lengths_B, jax.core.Tracer):
        lengths = np.asarray(lengths_B)
        if lengths.size and not bool(((lengths >= 1) & (lengths <= shape[1])).all()):
            raise InputError(f"lengths {lengths.tolist()} are not all in 1..{shape[1]}")
    if not isinstance(tokens_BS, jax.core.Tracer):
        tokens, size = np.asarray(tokens_BS), model.config.vocab_size
        if tokens.size and not bool(((tokens >= 0) & (tokens < size)).all()):
            raise InputError(f"a token id is not in the vocabulary 0..{size - 1}")
