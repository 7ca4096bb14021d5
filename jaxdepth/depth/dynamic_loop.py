"""The loop of dynamic decoding: lanes whose tokens exit one by one, by rules that are traced.

A lane's policy, threshold and way of caching are traced, so a whole grid of rules is one program,
and other thresholds do not recompile it. The price: every lane passes through every layer, wherever
its tokens exit. Layers are skipped at run time only where all lanes have exited, as with one prompt
under one rule that propagates.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdepth.depth.guard import Guards, read_guards
from jaxdepth.depth.layer_scan import over_layers
from jaxdepth.depth.policies import (
    ExitClassifier,
    Policy,
    TopToken,
    classify,
    saturation,
    threshold_at,
    top_token,
)
from jaxdepth.depth.sampling import TokenSampler
from jaxdepth.model import AnyArray
from jaxdepth.model.cache import (
    CachesApart,
    LaneCache,
    LayerCache,
    PromptCache,
    attend_lane,
    attend_prompt,
    attend_self,
    slice_cache,
    write_step,
)
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import constrain

# A traced policy is its number.
POLICY_NUMBERS = {policy: number for number, policy in enumerate(Policy)}


class LaneRules(NamedTuple):
    """The exit rules of X lanes of every prompt, and what they share."""

    policies_X: Int[Array, " X"]  # `POLICY_NUMBERS`
    thresholds_X: Float[Array, " X"]
    decays_X: Float[Array, " X"]  # NaN where the threshold is constant
    propagates_X: Bool[Array, " X"]
    needs_logits_X: Bool[Array, " X"]  # whether the policy reads the logits of candidates
    # After which layers a token may exit; always after the last.
    candidates_L: Bool[AnyArray, " L"]
    classifier: ExitClassifier | None
    guards: Guards | None


class TokenProgress(NamedTuple):
    """Each lane's next token on its way through the layers."""

    exits_XB: Int[Array, "X B"]  # 0 while it has not exited
    scores_XB: Float[Array, "X B"]  # where it exited
    tokens_XB: Int[Array, "X B"]  # the most probable at the last candidate
    streaks_XB: Int[Array, "X B"]  # for how many candidates in a row it has been so
    # The smallest probability of being harmless that its guard has read, at this token or before.
    calm_XB: Float[Array, "X B"]


class ExitChoice(NamedTuple):
    """The exit that each lane's next token is read from, and the residual stream there."""

    exits_XB: Int[Array, "X B"]
    scores_XB: Float[Array, "X B"]
    h_XBD: Float[Array, "X B D"]
    calm_XB: Float[Array, "X B"]  # as of the token's progress


class DynamicLanes(NamedTuple):
    """The fields of `DynamicGeneration`, on the device and by lane."""

    tokens_XBT: Int[Array, "X B T"]
    lengths_XB: Int[Array, "X B"]
    exits_XBT: Int[Array, "X B T"]
    scores_XBT: Float[Array, "X B T"]
    confidence_XBT: Float[Array, "X B T"]


# Takes the progress so far, the number of a layer that has run, counted from 0, and the residual
# streams before and after it. Returns the progress after it, and the most probable token there: -1
# unless the layer is a candidate whose logits some lane needs.
ExitTest = Callable[
    [TokenProgress, Int[Array, ""], Float[Array, "#X B D"], Float[Array, "#X B D"]],
    tuple[TokenProgress, Int[Array, "#X B"]],
]


@functools.partial(jax.jit, static_argnames=("needs_logits", "max_new_tokens"))
def decode_dynamic(
    model: Mistral,
    cache: PromptCache | CachesApart,
    after_LBD: Float[Array, "L B D"],
    last_B: Int[Array, " B"],
    lengths_B: Int[Array, " B"],
    rules: LaneRules,
    keys_XB: Key[Array, "X B"],
    sampler: TokenSampler,
    *,
    needs_logits: bool,
    max_new_tokens: int,
) -> DynamicLanes:
    """Decode new tokens of all lanes until every lane has ended.

    Args:
        model: the model.
        cache: keys and values of the prompts, for all layers.
        after_LBD: the residual stream after each layer, at the last token of each prompt.
        last_B: that token.
        lengths_B: lengths of the prompts.
        rules: the rule of each lane.
        keys_XB: a random key per lane.
        sampler: chooses each token.
        needs_logits: whether any rule reads the logits of candidates.
        max_new_tokens: T, the maximum per lane.
    """
    X, B = keys_XB.shape
    c, T, dtype = model.config, max_new_tokens, after_LBD.dtype

    def exit_test(done_XB, step) -> ExitTest:
        thresholds_X = threshold_at(rules.thresholds_X, rules.decays_X, step, T)
        return functools.partial(
            _test_exit, model, rules, thresholds_X[:, None], done_XB, step == 0, needs_logits
        )

    def append(lanes: DynamicLanes, done_XB, choice: ExitChoice, step):
        logits_XBV = model.unembed(choice.h_XBD, choice.exits_XB)
        finite_XB = sampler.start(X, B)  # what `confidence_XBT` says too
        token_XB, ends_XB, _ = sampler.next(finite_XB, logits_XBV, lanes.tokens_XBT, step, keys_XB)

        def write(old_XBT, new_XB):
            new_XB1 = jnp.where(done_XB, 0, new_XB)[..., None]
            return jax.lax.dynamic_update_slice_in_dim(old_XBT, new_XB1, step, axis=2)

        lanes = DynamicLanes(
            write(lanes.tokens_XBT, token_XB),
            lanes.lengths_XB + ~done_XB,
            write(lanes.exits_XBT, choice.exits_XB),
            write(lanes.scores_XBT, choice.scores_XB),
            write(lanes.confidence_XBT, top_token(logits_XBV).top1),
        )
        return lanes, done_XB | ends_XB

    ints_XBT, floats_XBT = (jnp.zeros((X, B, T), t) for t in (jnp.int32, jnp.float32))
    lanes = DynamicLanes(ints_XBT, jnp.zeros((X, B), jnp.int32), ints_XBT, floats_XBT, floats_XBT)
    done_XB = jnp.zeros((X, B), bool)
    h_JBD = jnp.concatenate([model.embed_tokens(last_B)[None], after_LBD])
    choice = _choose_first_exits(h_JBD, rules, exit_test(done_XB, jnp.int32(0)))
    lanes, done_XB = append(lanes, done_XB, choice, jnp.int32(0))
    shape = (c.num_hidden_layers, X, B, c.num_key_value_heads, T, c.head_dim)
    lane_cache = LaneCache(*(constrain(jnp.zeros(shape, dtype), "LXBKTH", model.mesh),) * 2)

    def is_going(state):
        step, done_XB, *_ = state
        return (step < T - 1) & ~done_XB.all()

    def advance(state):
        step, done_XB, lanes, lane_cache, calm_XB = state
        last_XB = jax.lax.dynamic_index_in_dim(lanes.tokens_XBT, step, axis=2, keepdims=False)
        test = exit_test(done_XB, step + 1)
        choice, lane_cache = _forward(
            model, cache, lane_cache, last_XB, step, lengths_B, rules, done_XB, calm_XB, test
        )
        lanes, done_XB = append(lanes, done_XB, choice, step + 1)
        return step + 1, done_XB, lanes, lane_cache, choice.calm_XB

    start = (jnp.int32(0), done_XB, lanes, lane_cache, choice.calm_XB)
    return jax.lax.while_loop(is_going, advance, start)[2]


def _choose_first_exits(
    h_JBD: Float[Array, "J B D"], rules: LaneRules, exit_test: ExitTest
) -> ExitChoice:
    """The exits of the first new tokens, from the prompts' residual streams, which lanes share."""
    before_L1BD, after_L1BD = h_JBD[:-1, None], h_JBD[1:, None]
    numbers_L = jnp.arange(len(after_L1BD))
    progress, top_L1B = jax.lax.scan(
        lambda progress, layer: exit_test(progress, *layer),
        _no_progress(jnp.ones((len(rules.policies_X), h_JBD.shape[1]))),
        (numbers_L, before_L1BD, after_L1BD),
    )
    return _choose_exits(rules, progress, after_L1BD, top_L1B)


def _forward(
    model: Mistral,
    cache: PromptCache | CachesApart,
    lane_cache: LaneCache,
    tokens_XB: Int[Array, "X B"],
    step: Int[Array, ""],
    lengths_B: Int[Array, " B"],
    rules: LaneRules,
    done_XB: Bool[Array, "X B"],
    calm_XB: Float[Array, "X B"],
    exit_test: ExitTest,
) -> tuple[ExitChoice, LaneCache]:
    """Run token `step` of every lane through all layers: the next token's exit, and the caches.

    Once every lane has ended or is frozen, layers only compute keys and values.
    """
    positions_1B = (lengths_B + step)[None]
    rotation = model.rope_at(positions_1B)

    def run_layer(carry, block, i):
        h_XBD, progress = carry
        window = block.window
        q_XBKGH, k_XBKH, v_XBKH = block.project_step(h_XBD, *rotation)
        # The residual stream of a lane that has exited is frozen: deeper layers cache the keys and
        # values that they compute from it, which is CALM's state propagation.
        frozen_XB = rules.propagates_X[:, None] & (progress.exits_XB > 0)

        def run():
            parts = (
                attend_prompt(q_XBKGH, slice_cache(cache, i), lengths_B, positions_1B, window),
                attend_lane(q_XBKGH, slice_cache(lane_cache, i), step, window),
                attend_self(q_XBKGH, k_XBKH, v_XBKH),
            )
            return jnp.where(frozen_XB[..., None], h_XBD, block.finish_step(h_XBD, parts))

        after_XBD = jax.lax.cond((frozen_XB | done_XB).all(), lambda: h_XBD, run)
        progress, top_XB = exit_test(progress, jnp.asarray(i), h_XBD, after_XBD)
        return (after_XBD, progress), (k_XBKH, v_XBKH, after_XBD, top_XB)

    start = (model.embed_tokens(tokens_XB), _no_progress(calm_XB))
    (_, progress), (k_LXBKH, v_LXBKH, after_LXBD, top_LXB) = over_layers(
        model, run_layer, start, layers=range(model.depth)
    )
    choice = _choose_exits(rules, progress, after_LXBD, top_LXB)
    return choice, write_step(lane_cache, LayerCache(k_LXBKH, v_LXBKH), step)


def _no_progress(calm_XB: Float[Array, "X B"]) -> TokenProgress:
    zeros_XB = jnp.zeros(calm_XB.shape, jnp.int32)
    return TokenProgress(zeros_XB, zeros_XB.astype(jnp.float32), zeros_XB - 1, zeros_XB, calm_XB)


def _test_exit(
    model: Mistral,
    rules: LaneRules,
    thresholds_X1: Float[Array, "X 1"],
    done_XB: Bool[Array, "X B"],
    is_first: Bool[Array, ""],
    needs_logits: bool,
    progress: TokenProgress,
    i: Int[Array, ""],
    before_XBD: Float[Array, "#X B D"],
    after_XBD: Float[Array, "#X B D"],
) -> tuple[TokenProgress, Int[Array, "#X B"]]:
    """An `ExitTest`: score layer i, counted from 0, and exit the tokens that reach a threshold."""
    exit_layer, is_candidate = i + 1, rules.candidates_L[i]
    open_XB = progress.exits_XB == 0
    zeros_XB = jnp.zeros(after_XBD.shape[:-1])
    top = TopToken(zeros_XB.astype(jnp.int32) - 1, zeros_XB, zeros_XB)
    if needs_logits:
        top = jax.lax.cond(
            is_candidate & (rules.needs_logits_X[:, None] & open_XB & ~done_XB).any(),
            lambda: top_token(model.unembed(after_XBD, exit_layer)),
            lambda: top,
        )
    streaks_XB = 1 + jnp.where(top.token == progress.tokens_XB, progress.streaks_XB, 0)
    scores = {
        Policy.TOP1: top.top1,
        Policy.MARGIN: top.margin,
        Policy.SATURATION: saturation(before_XBD, after_XBD),
        Policy.PATIENCE: streaks_XB,
        Policy.FIXED: exit_layer,
        Policy.ORACLE: 0,  # it decides after the pass: no lane of it exits before the last layer
    }
    if rules.classifier is not None:
        scores[Policy.CLASSIFIER] = classify(rules.classifier, exit_layer, after_XBD)
    calm_XB = progress.calm_XB
    if rules.guards is not None:
        calm_XB = read_guards(rules.guards, exit_layer, is_first, after_XBD, calm_XB)
        scores[Policy.GUARDED] = calm_XB
        is_candidate = is_candidate & (rules.guards.first_exits_X[:, None] <= exit_layer)

    def by_lane(x, dtype):
        return jnp.broadcast_to(jnp.asarray(x, dtype), open_XB.shape)

    score_XB = jax.lax.select_n(
        by_lane(rules.policies_X[:, None], jnp.int32),
        *(by_lane(scores.get(policy, 0), jnp.float32) for policy in Policy),
    )
    reached_XB = (score_XB >= thresholds_X1) | (exit_layer == len(rules.candidates_L))
    exits_XB = open_XB & is_candidate & reached_XB
    progress = TokenProgress(
        jnp.where(exits_XB, exit_layer, progress.exits_XB),
        jnp.where(exits_XB, score_XB, progress.scores_XB),
        jnp.where(is_candidate, top.token, progress.tokens_XB),
        jnp.where(is_candidate, streaks_XB, progress.streaks_XB),
        calm_XB,
    )
    return progress, top.token


def _choose_exits(
    rules: LaneRules,
    progress: TokenProgress,
    after_LXBD: Float[Array, "L _ B D"],  # one lane for all where it is the prompt's
    top_LXB: Int[Array, "L _ B"],
) -> ExitChoice:
    """The exits of all tokens after the pass, when the oracle sees full depth's token."""
    is_oracle_X1 = rules.policies_X[:, None] == POLICY_NUMBERS[Policy.ORACLE]
    first_XB = 1 + jnp.argmax(top_LXB == top_LXB[-1], axis=0)
    exits_XB = jnp.where(is_oracle_X1, first_XB, progress.exits_XB)
    h_1XBD = jnp.take_along_axis(after_LXBD, exits_XB[None, ..., None] - 1, axis=0)
    scores_XB = jnp.where(is_oracle_X1, 1.0, progress.scores_XB)
    return ExitChoice(exits_XB, scores_XB, h_1XBD[0], progress.calm_XB)
