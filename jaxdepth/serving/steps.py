"""Think, decide and answer at one exit, a few tokens at a time.

The same engine and the same sampler as `jaxdepth.refusal.decide`: only where the loop pauses is
different, so that an answer can be shown while it is written.
"""

from collections.abc import Generator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxdepth.depth.decode import DecodedLanes
from jaxdepth.depth.exits import check_tokens
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import at_least
from jaxdepth.model import AnyArray, Ints
from jaxdepth.model.mistral import Mistral
from jaxdepth.refusal.decide import (
    Decided,
    DecidingBatch,
    check_deciding,
    empty_decided,
    sampler_builder,
)
from jaxdepth.refusal.deliberate import Rule
from jaxdepth.refusal.protocol import Markers


class LanesSoFar(NamedTuple):
    """What the lanes of one exit have decoded up to a step."""

    decided: Decided  # of one exit and one vote; a verdict is -1 before it is decided
    ended: Bool[np.ndarray, " B"]


def decide_in_steps(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    exit_layer: int,
    markers: Markers,
    *,
    thought_tokens: int,
    answer_tokens: int,
    answer_tokens_B: Ints,
    step_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    rule: Rule = Rule(),  # noqa: B008
    seeds_B: Ints | None = None,
    stop_tokens: Ints = (),
) -> Generator[LanesSoFar, Bool[np.ndarray, " B"] | None, None]:
    """Do what `decide` does at one exit, and yield after every few tokens what there is by then.

    The program that is compiled depends on B, S, `thought_tokens`, `answer_tokens` and `sampling`.

    Args:
        answer_tokens: the longest answer that there is room for.
        answer_tokens_B: the maximum length of each prompt's answer, at most that.
        step_tokens: how many tokens are decoded between two yields.
        model, tokens_BS, lengths_B, exit_layer, markers, thought_tokens, sampling, rule, seeds_B,
            stop_tokens: as for `decide`.

    Yields:
        The lanes so far, the last time when all have ended. Lanes that are sent as True end there.

    Raises:
        InputError: an argument is out of range.
    """
    check_tokens(model, tokens_BS, lengths_B)
    closing = len(markers.close) + 1
    T = thought_tokens + closing + answer_tokens
    length = np.shape(tokens_BS)[1] + thought_tokens + closing
    check_deciding(model, [exit_layer], length, thought_tokens, answer_tokens)
    at_least(1, step_tokens=step_tokens)
    seeds_B = np.arange(len(tokens_BS)) if seeds_B is None else np.asarray(seeds_B)
    build = sampler_builder(markers, stop_tokens, sampling, rule)
    tokens_BS, lengths_B = np.asarray(tokens_BS), np.asarray(lengths_B)
    batch = DecidingBatch(model, tokens_BS, lengths_B, [exit_layer], seeds_B, [0], build)
    sampler = build(
        budgets=jnp.full((1, 1), thought_tokens),
        forced=jnp.full((1, 1), -1),
        script=None,
        answer=jnp.minimum(jnp.asarray(answer_tokens_B, jnp.int32), answer_tokens)[None],
    )
    state = batch.start(sampler, T)
    for until in range(step_tokens, T + step_tokens, step_tokens):
        state = batch.advance(state, sampler, min(until, T))
        lanes = DecodedLanes(state.tokens_XBT, state.lengths_XB, state.sampler_state, ())
        unforced = empty_decided((len(tokens_BS), 1, 1), 0, 0, 0, 0)
        ended_B = batch.to_exits(state.done_XB)[:, 0, 0]
        cancelled_B = yield LanesSoFar(unforced._replace(**batch.read(lanes)), ended_B)
        if cancelled_B is not None:
            ended_B = ended_B | cancelled_B
            state = state._replace(done_XB=jnp.asarray(ended_B)[None])
        if ended_B.all():
            return
