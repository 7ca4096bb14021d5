"""The distribution of the first token of a reply at every exit: the first_token table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from jaxdepth.depth.exits import exit_logits
from jaxdepth.model import AnyArray, FastTokenizer
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard, to_host
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.openers import FirstToken, first_token
from jaxdepth.study.common_tables import FIRST_TOKEN

_OF_THE_EXIT = ("refusal_log_odds", "top_token", "top_token_id", "top_prob", "entropy")
_AGAINST_FULL = ("kl_to_full", "agrees_with_full")


def first_rows(
    model: Mistral,
    tokenizer: FastTokenizer,
    batch: Batch,
    prompts: Sequence[Prompt],
    exits: Sequence[int],
    openers: Iterable[int],
) -> Callable[[], list[pa.Table]]:
    """Run a batch; the function that is returned makes its rows, one a prompt and exit.

    Args:
        model: the model.
        tokenizer: its tokenizer, which names tokens.
        batch: some of the prompts.
        prompts: all prompts.
        exits: in ascending order.
        openers: token ids that open a refusal.
    """
    measures = run_batch(model, batch, exits, opener_mask(model, openers))
    ids = [prompts[index].prompt_id for index in batch.indices]

    def on_host() -> list[pa.Table]:
        is_finite_N = np.isfinite(measures.entropy.T.ravel())
        top_N = measures.top_token.T.ravel()
        text_of = {int(token): token_text(tokenizer, int(token)) for token in np.unique(top_N)}
        columns: dict[str, Any] = {
            "prompt_id": np.repeat(ids, len(exits)),
            "exit": np.tile(exits, len(ids)),
            "top_token": [text_of[token] for token in top_N.tolist()],
            "top_token_id": top_N,
        }
        for name, column_EB in measures._asdict().items():
            columns.setdefault(name, column_EB.T.ravel())
        if not is_finite_N.all():
            against_full = is_finite_N & np.isfinite(columns["kl_to_full"])
            columns |= {name: _or_null(columns[name], is_finite_N) for name in _OF_THE_EXIT}
            columns |= {name: _or_null(columns[name], against_full) for name in _AGAINST_FULL}
        return [FIRST_TOKEN.from_columns(columns)]

    return on_host


def token_text(tokenizer: FastTokenizer, token: int) -> str:
    """A token as it reads in a text; the tokenizer's own piece where it is no text by itself."""
    text = tokenizer.decode([token])
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token))


def _or_null(values: Iterable, is_known_N: Bool[np.ndarray, " N"]) -> list:
    """The values that are known, and None for the others."""
    return [value if known else None for value, known in zip(values, is_known_N, strict=True)]


def opener_mask(model: Mistral, openers: Iterable[int]) -> Bool[np.ndarray, " V"]:
    """Which tokens of the vocabulary open a refusal, from their ids."""
    is_opener_V = np.zeros(model.config.vocab_size, bool)
    is_opener_V[list(openers)] = True
    return is_opener_V


def run_batch(
    model: Mistral, batch: Batch, exits: Sequence[int], is_opener_V: Bool[np.ndarray, " V"]
) -> FirstToken:
    """The first-token measures of a batch's prompts at some exits, as numpy arrays (E, B)."""
    depth = model.config.num_hidden_layers
    with_full = list(exits) if exits[-1] == depth else [*exits, depth]
    tokens_BS = shard(batch.tokens_BS, "BS", model.mesh)
    lengths_B = shard(batch.lengths_B, "B", model.mesh)
    measures = first_token_at(model, tokens_BS, lengths_B, np.array(with_full), is_opener_V)
    # Without full depth where it was added, and without the rows that pad the batch.
    E, B = len(exits), len(batch.indices)
    return FirstToken(*(to_host(column_EB)[:E, :B] for column_EB in measures))


@jax.jit
def first_token_at(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    exits_E: Int[AnyArray, " E"],
    is_opener_V: Bool[AnyArray, " V"],
) -> FirstToken:
    """The first-token measures at some exits, the last of which is full depth, in one pass."""
    all_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))
    return first_token(all_exits(model, tokens_BS, lengths_B, exits_E), is_opener_V)
