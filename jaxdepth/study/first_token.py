"""What every exit says first: the first-token table of a sweep."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
import pyarrow as pa

from jaxdepth.depth.exits import exit_logits
from jaxdepth.model.sharding import shard, to_host
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.openers import FirstToken, first_token

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("exit", pa.int32()),
        ("refusal_log_odds", pa.float32()),
        ("top_token", pa.string()),
        ("top_prob", pa.float32()),
        ("entropy", pa.float32()),
        ("kl_to_full", pa.float32()),
        ("agrees_with_full", pa.bool_()),
    ]
)


def first_rows(
    model, tokenizer, batch: Batch, prompts: Sequence[Prompt], exits: Sequence[int], openers
) -> Callable[[], list[pa.Table]]:
    """One row per prompt of the batch and exit; `openers` are the token ids that open a refusal."""
    stats = run_batch(model, batch, exits, opener_mask(model, openers))
    ids = [prompts[place].prompt_id for place in batch.indices]

    def on_host() -> list[pa.Table]:
        columns = {
            "prompt_id": np.repeat(ids, len(exits)),
            "exit": np.tile(exits, len(ids)),
            "top_token": tokenizer.convert_ids_to_tokens(stats.top_token.T.ravel().tolist()),
        }
        for name, column in stats._asdict().items():
            columns.setdefault(name, column.T.ravel())
        return [pa.table({f.name: pa.array(columns[f.name], f.type) for f in SCHEMA})]

    return on_host


def opener_mask(model, openers) -> np.ndarray:
    """Which tokens of the vocabulary open a refusal (V,); `openers` are their ids."""
    is_opener_V = np.zeros(model.config.vocab_size, bool)
    is_opener_V[list(openers)] = True
    return is_opener_V


def run_batch(model, batch: Batch, exits: Sequence[int], is_opener_V: np.ndarray) -> FirstToken:
    """What each of `exits` says first, for each prompt of a batch: numpy arrays (E, B)."""
    depth = model.config.num_hidden_layers
    with_full = list(exits) if exits[-1] == depth else [*exits, depth]
    tokens_BS = shard(batch.tokens_BS, "BS", model.mesh)
    lengths_B = shard(batch.lengths_B, "B", model.mesh)
    stats = first_token_at(model, tokens_BS, lengths_B, np.array(with_full), is_opener_V)
    rows, real = len(exits), len(batch.indices)
    return FirstToken(*(to_host(column)[:rows, :real] for column in stats))


@jax.jit
def first_token_at(model, tokens_BS, lengths_B, exits_E, is_opener_V):
    all_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))
    return first_token(all_exits(model, tokens_BS, lengths_B, exits_E), is_opener_V)
