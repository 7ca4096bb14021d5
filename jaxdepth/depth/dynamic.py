"""Dynamic decoding: every token exits at its own depth, by many exit rules at once.

A lane is one sequence that is decoded: prompt x rule x sample. `generate_dynamic` checks the
request and decides how many lanes run at once; `depth.dynamic_loop` runs them. Every lane passes
through every layer, wherever its tokens exit: this shows which text a rule gives, and
`layers_computed` shows what the rule would cost.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdepth.depth.decode import prefill
from jaxdepth.depth.dynamic_loop import POLICY_NUMBERS, DynamicLanes, LaneRules, decode_dynamic
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.generation import DEFAULT_BUDGET, check_room, split
from jaxdepth.depth.guard import Guards, HarmProbe, check_guards, lane_guards
from jaxdepth.depth.lanes import Segment, memory
from jaxdepth.depth.policies import Caching, ExitClassifier, ExitRule, Policy
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.errors import InputError, at_least, listed
from jaxdepth.model import AnyArray, Ints
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard, to_host

# Policies that read the logits of candidates: without them no logits are computed on the way.
LOGIT_POLICIES = {Policy.TOP1, Policy.MARGIN, Policy.PATIENCE, Policy.ORACLE}


class DynamicGeneration(NamedTuple):
    """The tokens that every rule decoded, and their exits; 0 beyond a lane's length."""

    tokens: Int[np.ndarray, "B E M T"]
    lengths: Int[np.ndarray, "B E M"]  # the end token counts
    exits: Int[np.ndarray, "B E M T"]  # the exit that each token was read from, 1..L
    scores: Float[np.ndarray, "B E M T"]  # the policy's score at that exit
    confidence: Float[np.ndarray, "B E M T"]  # probability of the most probable token at that exit


def generate_dynamic(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    rules: Sequence[ExitRule],
    exits: Ints,
    max_new_tokens: int,
    *,
    samples: int = 1,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seeds_B: Ints | None = None,
    stop_tokens: Ints = (),
    classifier: ExitClassifier | None = None,
    probes: Mapping[str, HarmProbe] | None = None,
    guard_answers: bool = False,
    memory_budget: int = DEFAULT_BUDGET,
) -> DynamicGeneration:
    """Decode every prompt with every rule, each token at the exit that the rule chooses.

    A prompt itself runs through all layers. A token is chosen from the logits at the exit that the
    position before it takes: the first candidate where the policy's score reaches the threshold.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        rules: policies with their thresholds.
        exits: the candidates, in any order, each 1..L and named once; L always is one.
        max_new_tokens: T, the maximum per lane.
        samples: lanes per prompt and rule, M.
        sampling: greedy by default; scores and confidence ignore it, they are of the unscaled
            logits.
        seeds_B: a seed per prompt, by default 0..B-1. A fixed exit samples the same tokens as
            `jaxdepth.generate` at that exit; those of other rules depend on seed and sample alone.
        stop_tokens: token ids that end a lane; by default none does.
        classifier: for rules with policy `classifier`.
        probes: for rules with policy `guarded`, by name.
        guard_answers: whether guards read every token of the answer too, not the prompt alone.
        memory_budget: bytes that caches, residual streams and logits may take; prompts, then
            samples, then rules are split into batches that fit.

    Returns:
        Numpy arrays, in the order of `rules`.

    Raises:
        InputError: an argument is out of range, a rule does not fit the candidates or lacks its
            classifier or probe, or one lane alone exceeds the budget.

    Source: confident adaptive language modeling, Schuster et al. 2022 (arXiv:2207.07061).
    """
    rules, exits = list(rules), list(exits)
    check_tokens(model, tokens_BS, lengths_B)
    _check_exits(exits, model.config.num_hidden_layers)
    _check_rules(rules, exits, classifier, model.config)
    check_guards(rules, exits, probes or {}, model.config)
    at_least(1, max_new_tokens=max_new_tokens, samples=samples)
    check_room(model.config, np.shape(tokens_BS)[1], max_new_tokens)
    tokens_BS, lengths_B = np.asarray(tokens_BS), np.asarray(lengths_B)
    B, E, M, T = len(lengths_B), len(rules), samples, max_new_tokens
    seeds_B = np.arange(B) if seeds_B is None else np.asarray(seeds_B)
    sampler = TokenSampler.of(sampling, stop_tokens)
    generation = DynamicGeneration(
        tokens=np.zeros((B, E, M, T), np.int32),
        lengths=np.zeros((B, E, M), np.int32),
        exits=np.zeros((B, E, M, T), np.int32),
        scores=np.zeros((B, E, M, T), np.float32),
        confidence=np.zeros((B, E, M, T), np.float32),
    )

    def bytes_of(prompts: int, part: Sequence[ExitRule], samples: int) -> int:
        return _bytes(model, part, prompts, tokens_BS.shape[1], T, samples)

    for batch in split(bytes_of, rules, B, M, memory_budget, model.mesh):
        rows, batch_rules = batch.padded_rows, [rules[e] for e in batch.exits]
        samples = len(batch.samples)
        guards = lane_guards(batch_rules, exits, probes or {}, model.config, guard_answers, samples)
        depth = model.config.num_hidden_layers
        lanes = _run(
            model,
            tokens_BS[rows],
            lengths_B[rows],
            _lane_rules(batch_rules, exits, classifier, guards, depth, samples),
            T,
            sampler,
            lane_keys(seeds_B[rows], [_key_exit(rule) for rule in batch_rules], batch.samples),
            _needs_logits(batch_rules),
        )
        arrays = map(to_host, lanes)
        batch.write(generation, (a.reshape(-1, samples, *a.shape[1:]) for a in arrays))
    return generation


def layers_computed(
    exits_T: Int[np.ndarray, "... T"], caching: Caching
) -> Int[np.ndarray, "... T"]:
    """How many layers are computed for each token in the end; 0 beyond a lane's length.

    With propagated caches this is the token's exit. With late ones a layer that was skipped is
    computed once a later token of the sequence goes deeper, so it is the deepest exit among this
    token and all later ones, whether a sliding window still includes the token or not.

    This is the cost of new tokens. The prompt's own pass, which runs all layers under every rule,
    is not counted. It also gives the first token, which counts as if it had a pass of its own that
    stopped at its exit.
    """
    exits_T = np.asarray(exits_T)
    if caching == Caching.PROPAGATE:
        return exits_T.copy()
    return np.flip(np.maximum.accumulate(np.flip(exits_T, -1), axis=-1), -1)


def _key_exit(rule: ExitRule) -> int:
    """The exit that the random keys of a rule's lanes are made from."""
    return int(rule.threshold) if rule.policy == Policy.FIXED else 0


def _needs_logits(rules: Sequence[ExitRule]) -> bool:
    return any(rule.policy in LOGIT_POLICIES for rule in rules)


def _bytes(
    model: Mistral,
    rules: Sequence[ExitRule],
    prompts: int,
    length: int,
    new_tokens: int,
    samples: int,
) -> int:
    """Bytes of a batch: lanes of full depth, and residual streams and logits of candidates."""
    config, itemsize = model.config, model.embed[...].dtype.itemsize
    L, lanes = config.num_hidden_layers, prompts * samples * len(rules)
    plan = (Segment(0, L, len(rules)),)
    shape = prompts, length, new_tokens, samples, itemsize
    decoding = memory(config, plan, *shape, model.mesh)
    residual = itemsize * L * lanes * config.hidden_size
    return decoding.total + residual + (decoding.logits if _needs_logits(rules) else 0)


def _lane_rules(
    rules: Sequence[ExitRule],
    exits: Sequence[int],
    classifier: ExitClassifier | None,
    guards: Guards | None,
    depth: int,
    samples: int,
) -> LaneRules:
    """The rules as arrays: lane e * samples + m is sample m of rule e."""

    def column(values, dtype):
        return np.repeat(np.asarray(list(values), dtype), samples)

    has_classifier = any(rule.policy == Policy.CLASSIFIER for rule in rules)
    arrays = (np.asarray(x, np.float32) for x in classifier or ())
    return LaneRules(
        column((POLICY_NUMBERS[rule.policy] for rule in rules), np.int32),
        column((rule.threshold for rule in rules), np.float32),
        column((np.nan if rule.decay is None else rule.decay for rule in rules), np.float32),
        column((rule.caching == Caching.PROPAGATE for rule in rules), bool),
        column((rule.policy in LOGIT_POLICIES for rule in rules), bool),
        np.isin(np.arange(1, depth + 1), [*exits, depth]),
        ExitClassifier(*arrays) if has_classifier else None,
        guards,
    )


def _run(
    model: Mistral,
    tokens_BS: Int[AnyArray, "B S"],
    lengths_B: Int[AnyArray, " B"],
    rules: LaneRules,
    max_new_tokens: int,
    sampler: TokenSampler,
    keys_EMB: Key[Array, "E M B"],
    needs_logits: bool,
) -> DynamicLanes:
    """Prefill and decode one batch."""
    L, mesh = model.config.num_hidden_layers, model.mesh
    last_B = shard(tokens_BS[np.arange(len(lengths_B)), lengths_B - 1], "B", mesh)
    tokens_BS = shard(tokens_BS, "BS", mesh)
    lengths_B = shard(np.asarray(lengths_B, np.int32), "B", mesh)
    cache, after_LBD = prefill(model, tokens_BS, lengths_B, np.arange(1, L + 1), L)
    return decode_dynamic(
        model,
        cache,
        after_LBD,
        last_B,
        lengths_B,
        rules,
        keys_EMB.reshape(-1, len(lengths_B)),
        sampler,
        needs_logits=needs_logits,
        max_new_tokens=max_new_tokens,
    )


def _check_exits(exits: list[int], depth: int) -> None:
    if not exits:
        raise InputError("no exits: name at least one candidate")
    for exit_layer in exits:
        check_exits(exit_layer, depth)
    if len(set(exits)) < len(exits):
        raise InputError(f"exits {listed(map(str, exits), 12)} repeat one: name each once")


def _check_rules(
    rules: list[ExitRule],
    exits: list[int],
    classifier: ExitClassifier | None,
    config: ModelConfig,
) -> None:
    if not rules:
        raise InputError("no rules: name at least one")
    candidates = sorted({*exits, config.num_hidden_layers})
    for rule in rules:
        if rule.policy == Policy.FIXED and rule.threshold not in candidates:
            raise InputError(
                f"fixed exit {rule.threshold:g} is not a candidate: there are "
                f"{listed(map(str, candidates), 12)}"
            )
        if rule.policy == Policy.ORACLE and rule.threshold != 1:
            raise InputError(f"the threshold of oracle is {rule.threshold:g}, expected 1")
    if any(rule.policy == Policy.CLASSIFIER for rule in rules):
        _check_classifier(classifier, config)


def _check_classifier(classifier: ExitClassifier | None, config: ModelConfig) -> None:
    if classifier is None:
        raise InputError("a rule needs a classifier, but none was given")
    shapes = tuple(np.shape(x) for x in classifier)
    expected = ((config.num_hidden_layers, config.hidden_size), (config.num_hidden_layers,))
    if shapes != expected:
        raise InputError(
            f"the classifier's weights and bias are {shapes[0]} and {shapes[1]}, expected "
            f"{expected[0]} and {expected[1]}"
        )
