"""The loop of lanes whose tokens exit one by one: all rules in one compiled `while_loop`.

What a lane's policy scores, its threshold and what stands in its caches are traced, so a whole grid
of rules is one program, and other thresholds are no other program. For that every lane passes
through every layer, wherever its tokens exit. Only where all lanes are through, as with one rule
that propagates and one prompt, layers are really left out.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.depth.policies import (
    ExitClassifier,
    Policy,
    Reading,
    classify,
    read,
    saturation,
    threshold_at,
)
from jaxdepth.depth.talk import Speak
from jaxdepth.model.cache import (
    Kept,
    LaneCache,
    PromptCache,
    attend_lane,
    attend_prompt,
    attend_self,
    write_step,
)
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain

# A traced policy is its place here.
PLACES = {policy: place for place, policy in enumerate(Policy)}


class RuleLanes(NamedTuple):
    """The rules of X streams, and what they share."""

    policies_X: Int[Array, " X"]
    thresholds_X: Float[Array, " X"]
    decays_X: Float[Array, " X"]  # NaN where the threshold is constant
    propagates_X: Bool[Array, " X"]
    reads_X: Bool[Array, " X"]  # whether the logits of candidates are needed
    candidates_L: Bool[Array, " L"]  # after which layers a token may exit; the last always is one
    classifier: ExitClassifier | None


class Watch(NamedTuple):
    """What is known of every lane's next token on its way through the layers."""

    exits_XB: Int[Array, "X B"]  # 0 while it has not exited
    scores_XB: Float[Array, "X B"]  # where it exited
    tokens_XB: Int[Array, "X B"]  # the most probable at the last candidate
    streaks_XB: Int[Array, "X B"]  # at how many candidates in a row it has been that


class Taken(NamedTuple):
    """Where every lane's next token is taken from."""

    exits_XB: Int[Array, "X B"]
    scores_XB: Float[Array, "X B"]
    streams_XBD: Float[Array, "X B D"]


class Said(NamedTuple):
    """`DynamicGeneration` on the device, field by field."""

    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]
    exits_XBT: Int[Array, "X B T"]
    scores_XBT: Float[Array, "X B T"]
    confidence_XBT: Float[Array, "X B T"]


# Of every lane's token, once a layer has run: its number from 0, and the streams around it. Gives
# what is known then, and the most probable token: -1 unless it is a candidate that some lane reads.
Judge = Callable[
    [Watch, Int[Array, ""], Float[Array, "#X B D"], Float[Array, "#X B D"]],
    tuple[Watch, Int[Array, "#X B"]],
]


@functools.partial(jax.jit, static_argnames=("reads", "max_new_tokens"))
def decode_dynamic(
    model: Mistral,
    cache: PromptCache,
    after_LBD: Float[Array, "L B D"],
    last_B: Int[Array, " B"],
    lengths_B: Int[Array, " B"],
    rules: RuleLanes,
    keys_XB: Array,
    talk: Speak,
    *,
    reads: bool,
    max_new_tokens: int,
) -> Said:
    """The loop over new tokens; ends when every lane has ended.

    Args:
        model: the model.
        cache: of the prompts, for all layers.
        after_LBD: the residual stream after each layer, at the last token of each prompt.
        last_B: that token.
        lengths_B: lengths of the prompts.
        rules: the rule of each stream.
        keys_XB: a random key per lane.
        talk: what a lane says next.
        reads: whether any rule needs the logits of candidates.
        max_new_tokens: the most tokens that a lane says.
    """
    X, B = keys_XB.shape
    c, T, dtype = model.config, max_new_tokens, after_LBD.dtype

    def judge_of(done_XB, step) -> Judge:
        needed_X = threshold_at(rules.thresholds_X, rules.decays_X, step, T)
        return functools.partial(_judge, model, rules, needed_X[:, None], done_XB, reads)

    def say(said, done_XB, taken, step):
        logits_XBV = model.unembed(taken.streams_XBD)
        token_XB, ends_XB, _ = talk.next(None, logits_XBV, said.tokens_XBT, step, keys_XB)

        def write(old_XBT, new_XB):
            new_XB1 = jnp.where(done_XB, 0, new_XB)[..., None]
            return jax.lax.dynamic_update_slice_in_dim(old_XBT, new_XB1, step, axis=2)

        said = Said(
            write(said.tokens_XBT, token_XB),
            said.lengths_XB + ~done_XB,
            write(said.exits_XBT, taken.exits_XB),
            write(said.scores_XBT, taken.scores_XB),
            write(said.confidence_XBT, read(logits_XBV).top1),
        )
        return said, done_XB | ends_XB

    ints_XBT, floats_XBT = (jnp.zeros((X, B, T), t) for t in (jnp.int32, jnp.float32))
    said = Said(ints_XBT, jnp.zeros((X, B), jnp.int32), ints_XBT, floats_XBT, floats_XBT)
    done_XB = jnp.zeros((X, B), bool)
    streams_NBD = jnp.concatenate([model.embed_tokens(last_B)[None], after_LBD])
    taken = _of_prompt(streams_NBD, rules, judge_of(done_XB, jnp.int32(0)))
    said, done_XB = say(said, done_XB, taken, jnp.int32(0))
    shape = (c.num_hidden_layers, X, B, c.num_key_value_heads, T, c.head_dim)
    lanes = LaneCache(*(constrain(jnp.zeros(shape, dtype), "LXBKTH", model.mesh),) * 2)

    def going(state):
        step, done_XB, *_ = state
        return (step < T - 1) & ~done_XB.all()

    def advance(state):
        step, done_XB, said, lanes = state
        last_XB = jax.lax.dynamic_index_in_dim(said.tokens_XBT, step, axis=2, keepdims=False)
        judge = judge_of(done_XB, step + 1)
        taken, lanes = _forward(
            model, cache, lanes, last_XB, step, lengths_B, rules, done_XB, judge
        )
        said, done_XB = say(said, done_XB, taken, step + 1)
        return step + 1, done_XB, said, lanes

    return jax.lax.while_loop(going, advance, (jnp.int32(0), done_XB, said, lanes))[2]


def _of_prompt(streams_NBD: Float[Array, "L+1 B D"], rules: RuleLanes, judge: Judge) -> Taken:
    """Where the first tokens are taken from, by the streams that all lanes of a prompt share."""
    before_L1BD, after_L1BD = streams_NBD[:-1, None], streams_NBD[1:, None]
    numbers_L = jnp.arange(len(after_L1BD))
    watch = _unwatched(len(rules.policies_X), streams_NBD.shape[1])
    watch, read_L1B = jax.lax.scan(
        lambda watch, layer: judge(watch, *layer), watch, (numbers_L, before_L1BD, after_L1BD)
    )
    return _take(rules, watch, after_L1BD, read_L1B)


def _forward(
    model: Mistral,
    cache: PromptCache,
    lanes: LaneCache,
    tokens_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    lengths_B: Int[Array, " B"],
    rules: RuleLanes,
    done_XB: Bool[Array, "X B"],
    judge: Judge,
) -> tuple[Taken, LaneCache]:
    """Token `step` of every lane through all layers: where the next is taken from, and caches.

    Once every lane has ended or is frozen, layers only make keys and values.
    """
    positions_1B = (lengths_B + step)[None]
    rotation = model.rope_at(positions_1B)

    def layer(carry, i):
        h_XBD, watch = carry
        block = model.layer(i)
        window = block.window
        q, k_XBKH, v_XBKH = block.project_step(h_XBD, *rotation)
        # The stream of a lane that has exited stays as it was: deeper layers cache what they make
        # of it, which is CALM's state propagation.
        frozen_XB = rules.propagates_X[:, None] & (watch.exits_XB > 0)

        def run():
            parts = (
                attend_prompt(q, Kept(*cache, i), lengths_B, positions_1B, window),
                attend_lane(q, Kept(*lanes, i), step, window),
                attend_self(q, k_XBKH, v_XBKH),
            )
            return jnp.where(frozen_XB[..., None], h_XBD, block.finish_step(h_XBD, parts))

        after_XBD = jax.lax.cond((frozen_XB | done_XB).all(), lambda: h_XBD, run)
        watch, read_XB = judge(watch, i, h_XBD, after_XBD)
        return (after_XBD, watch), (k_XBKH, v_XBKH, after_XBD, read_XB)

    start = (model.embed_tokens(tokens_XB), _unwatched(*tokens_XB.shape))
    numbers_L = jnp.arange(model.config.num_hidden_layers)
    (_, watch), (k_LXBKH, v_LXBKH, after_LXBD, read_LXB) = jax.lax.scan(layer, start, numbers_L)
    taken = _take(rules, watch, after_LXBD, read_LXB)
    return taken, write_step(lanes, k_LXBKH, v_LXBKH, step)


def _unwatched(X: int, B: int) -> Watch:
    zeros_XB = jnp.zeros((X, B), jnp.int32)
    return Watch(zeros_XB, zeros_XB.astype(jnp.float32), zeros_XB - 1, zeros_XB)


def _judge(
    model: Mistral,
    rules: RuleLanes,
    needed_X1: Float[Array, "X 1"],
    done_XB: Bool[Array, "X B"],
    reads: bool,
    watch: Watch,
    i: Int[Array, ""],
    before_XBD: Float[Array, "#X B D"],
    after_XBD: Float[Array, "#X B D"],
) -> tuple[Watch, Int[Array, "#X B"]]:
    """A `Judge`: scores layer i, counted from 0, and lets those go that have reached enough."""
    exit, candidate = i + 1, rules.candidates_L[i]
    open_XB = watch.exits_XB == 0
    zeros_XB = jnp.zeros(after_XBD.shape[:-1])
    reading = Reading(zeros_XB.astype(jnp.int32) - 1, zeros_XB, zeros_XB)
    if reads:
        reading = jax.lax.cond(
            candidate & (rules.reads_X[:, None] & open_XB & ~done_XB).any(),
            lambda: read(model.unembed(after_XBD)),
            lambda: reading,
        )
    streaks_XB = 1 + jnp.where(reading.token == watch.tokens_XB, watch.streaks_XB, 0)
    scores = {
        Policy.TOP1: reading.top1,
        Policy.MARGIN: reading.margin,
        Policy.SATURATION: saturation(before_XBD, after_XBD),
        Policy.PATIENCE: streaks_XB,
        Policy.FIXED: exit,
        Policy.ORACLE: 0,  # it decides after the pass: no lane of it exits before the last layer
    }
    if rules.classifier is not None:
        scores[Policy.CLASSIFIER] = classify(rules.classifier, exit, after_XBD)

    def every(x, kind):
        return jnp.broadcast_to(jnp.asarray(x, kind), open_XB.shape)

    score_XB = jax.lax.select_n(
        every(rules.policies_X[:, None], jnp.int32),
        *(every(scores.get(policy, 0), jnp.float32) for policy in Policy),
    )
    enough_XB = (score_XB >= needed_X1) | (exit == len(rules.candidates_L))
    leaves_XB = open_XB & candidate & enough_XB
    watch = Watch(
        jnp.where(leaves_XB, exit, watch.exits_XB),
        jnp.where(leaves_XB, score_XB, watch.scores_XB),
        jnp.where(candidate, reading.token, watch.tokens_XB),
        jnp.where(candidate, streaks_XB, watch.streaks_XB),
    )
    return watch, reading.token


def _take(
    rules: RuleLanes,
    watch: Watch,
    after_LXBD: Float[Array, "L _ B D"],  # one stream serves all where it is the prompt's
    read_LXB: Int[Array, "L _ B"],
) -> Taken:
    """Where tokens are taken from, after the pass: now the oracle knows what full depth says."""
    oracle_X1 = rules.policies_X[:, None] == PLACES[Policy.ORACLE]
    first_XB = 1 + jnp.argmax(read_LXB == read_LXB[-1], axis=0)
    exits_XB = jnp.where(oracle_X1, first_XB, watch.exits_XB)
    streams_1XBD = jnp.take_along_axis(after_LXBD, exits_XB[None, ..., None] - 1, axis=0)
    return Taken(exits_XB, jnp.where(oracle_X1, 1.0, watch.scores_XB), streams_1XBD[0])
