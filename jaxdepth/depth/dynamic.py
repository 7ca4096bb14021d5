"""A depth of its own for every token: many exit rules at once, each with lanes of its own.

A lane is one decode stream: prompt x rule x sample. `generate_dynamic` checks what is asked and
says how many lanes run at once; `depth.dynamic_loop` runs them. Every lane passes through every
layer, wherever its tokens exit: this shows what a rule would say, and `layers_computed` what it
would have cost.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.depth.decode import prefill
from jaxdepth.depth.dynamic_loop import PLACES, RuleLanes, Said, decode_dynamic
from jaxdepth.depth.exits import check_exits, check_tokens
from jaxdepth.depth.generation import DEFAULT_BUDGET, check_room, split
from jaxdepth.depth.lanes import Segment, memory
from jaxdepth.depth.policies import Caching, ExitClassifier, ExitRule, Policy
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.depth.talk import Speak
from jaxdepth.errors import InputError, at_least, listed
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard, to_host

# Those that need the logits of candidates: for the others no head is computed on the way.
READERS = {Policy.TOP1, Policy.MARGIN, Policy.PATIENCE, Policy.ORACLE}


class DynamicGeneration(NamedTuple):
    """What every rule said, and how deep. Positions from a lane's length on hold 0."""

    tokens: Int[np.ndarray, "B R M T"]
    lengths: Int[np.ndarray, "B R M"]  # the end token counts
    exits: Int[np.ndarray, "B R M T"]  # the exit that each token was taken from, 1..L
    scores: Float[np.ndarray, "B R M T"]  # the policy's own, there
    confidence: Float[np.ndarray, "B R M T"]  # probability of the most probable token, there


def generate_dynamic(
    model: Mistral,
    tokens_BS: Int[Array, "B S"],
    lengths_B: Int[Array, " B"],
    rules: Sequence[ExitRule],
    exits: Sequence[int],
    max_new_tokens: int,
    *,
    samples: int = 1,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seeds_B: Sequence[int] | None = None,
    stop_tokens: Sequence[int] = (),
    classifier: ExitClassifier | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> DynamicGeneration:
    """Decodes every prompt with every rule, each token to the depth that its rule asks for.

    A prompt itself runs through all layers. A token is chosen from the logits at the exit that the
    position before it takes: the first candidate where the policy's score reaches the threshold.

    Args:
        model: a model from `jaxdepth.load`.
        tokens_BS: token ids, prompts right-padded with any id of the vocabulary.
        lengths_B: the real length of each prompt, 1..S.
        rules: policies with their thresholds, R of them.
        exits: the candidates, in any order, each 1..L and named once; L always is one.
        max_new_tokens: the most tokens that a lane says, T.
        samples: lanes per prompt and rule, M.
        sampling: greedy by default; scores and confidence are of the logits as they are.
        seeds_B: a seed per prompt, by default 0..B-1. Draws of a fixed exit are those of
            `jaxdepth.generate` there; those of other rules depend on seed and sample alone.
        stop_tokens: token ids that end a lane, besides none.
        classifier: what the rules with policy `classifier` ask.
        memory_budget: bytes that caches, streams and logits may hold; prompts, then samples, then
            rules are split so that they do.

    Returns:
        Numpy arrays, in the order of `rules`.

    Raises:
        InputError: an argument is out of range, a rule does not fit the candidates or lacks its
            classifier, or one lane alone exceeds the budget.

    Source: confident adaptive language modeling, Schuster et al. 2022 (arXiv:2207.07061).
    """
    rules, exits = list(rules), list(exits)
    check_tokens(model, tokens_BS, lengths_B)
    _check_exits(exits, model.config.num_hidden_layers)
    _check_rules(rules, exits, classifier, model.config)
    at_least(1, max_new_tokens=max_new_tokens, samples=samples)
    check_room(model.config, np.shape(tokens_BS)[1], max_new_tokens)
    tokens_BS, lengths_B = np.asarray(tokens_BS), np.asarray(lengths_B)
    B, R, M, T = len(lengths_B), len(rules), samples, max_new_tokens
    seeds_B = np.arange(B) if seeds_B is None else np.asarray(seeds_B)
    talk = Speak.of(sampling, stop_tokens)
    said = DynamicGeneration(
        tokens=np.zeros((B, R, M, T), np.int32),
        lengths=np.zeros((B, R, M), np.int32),
        exits=np.zeros((B, R, M, T), np.int32),
        scores=np.zeros((B, R, M, T), np.float32),
        confidence=np.zeros((B, R, M, T), np.float32),
    )

    def bytes_of(prompts: int, part: Sequence[ExitRule], samples: int) -> int:
        return _bytes(model, part, prompts, tokens_BS.shape[1], T, samples)

    for group in split(bytes_of, rules, B, M, memory_budget, model.mesh):
        rows, full, places, chosen = group
        part = [rules[p] for p in places]
        found = _run(
            model,
            tokens_BS[full],
            lengths_B[full],
            _lanes(part, exits, classifier, model.config.num_hidden_layers, len(chosen)),
            T,
            talk,
            lane_keys(seeds_B[full], [_drawn_as(rule) for rule in part], chosen),
            _read_by(part),
        )
        index = np.ix_(rows, places, chosen)
        for whole, piece_XB in zip(said, found, strict=True):
            piece = to_host(piece_XB).reshape(len(part), len(chosen), *piece_XB.shape[1:])
            whole[index] = np.moveaxis(piece, 2, 0)[: len(rows)]
    return said


def layers_computed(
    exits_T: Int[np.ndarray, "... T"], caching: Caching
) -> Int[np.ndarray, "... T"]:
    """How many layers each token's pass runs in the end, 0 beyond the length.

    With propagated caches it is the exit. With late ones a layer that was skipped is computed once
    a later token of the sequence goes deeper: it is the deepest exit from this token on, whether a
    window still shows it or not.

    This is what new tokens cost. The prompt's own pass runs all layers, by whatever rule, and is
    not counted; the first token, which is read from it, still counts like the others, as if a pass
    of its own had stopped at its exit.
    """
    exits_T = np.asarray(exits_T)
    if caching == Caching.PROPAGATE:
        return exits_T.copy()
    return np.flip(np.maximum.accumulate(np.flip(exits_T, -1), axis=-1), -1)


def _drawn_as(rule: ExitRule) -> int:
    """The exit that stands in the keys of its lanes."""
    return int(rule.threshold) if rule.policy == Policy.FIXED else 0


def _read_by(rules: Sequence[ExitRule]) -> bool:
    return any(rule.policy in READERS for rule in rules)


def _bytes(
    model: Mistral,
    rules: Sequence[ExitRule],
    prompts: int,
    length: int,
    new_tokens: int,
    samples: int,
) -> int:
    """What a batch holds: as lanes of full depth, and the streams and logits of candidates."""
    config, itemsize = model.config, model.embed[...].dtype.itemsize
    L, lanes = config.num_hidden_layers, prompts * samples * len(rules)
    plan = (Segment(0, L, len(rules)),)
    shape = prompts, length, new_tokens, samples, itemsize
    decoding = memory(config, plan, *shape, model.mesh)
    streams = itemsize * L * lanes * config.hidden_size
    return decoding.total + streams + (decoding.logits if _read_by(rules) else 0)


def _lanes(
    rules: Sequence[ExitRule],
    exits: Sequence[int],
    classifier: ExitClassifier | None,
    depth: int,
    samples: int,
) -> RuleLanes:
    """The rules as arrays: stream r * samples + m is sample m of rule r."""

    def column(values, dtype):
        return np.repeat(np.asarray(list(values), dtype), samples)

    asked = any(rule.policy == Policy.CLASSIFIER for rule in rules)
    return RuleLanes(
        column((PLACES[rule.policy] for rule in rules), np.int32),
        column((rule.threshold for rule in rules), np.float32),
        column((np.nan if rule.decay is None else rule.decay for rule in rules), np.float32),
        column((rule.caching == Caching.PROPAGATE for rule in rules), bool),
        column((rule.policy in READERS for rule in rules), bool),
        np.isin(np.arange(1, depth + 1), [*exits, depth]),
        ExitClassifier(*(np.asarray(x, np.float32) for x in classifier)) if asked else None,
    )


def _run(
    model: Mistral,
    tokens_BS,
    lengths_B,
    rules: RuleLanes,
    max_new_tokens: int,
    talk: Speak,
    keys_RMB,
    reads: bool,
) -> Said:
    """One batch that fits: prefill and decode."""
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
        keys_RMB.reshape(-1, len(lengths_B)),
        talk,
        reads=reads,
        max_new_tokens=max_new_tokens,
    )


def _check_exits(exits: list[int], depth: int) -> None:
    if not exits:
        raise InputError("no exits: name at least one candidate")
    for exit in exits:
        check_exits(exit, depth)
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
    places = sorted({*exits, config.num_hidden_layers})
    for rule in rules:
        if rule.policy == Policy.FIXED and rule.threshold not in places:
            raise InputError(
                f"fixed exit {rule.threshold:g} is not a candidate: there are "
                f"{listed(map(str, places), 12)}"
            )
        if rule.policy == Policy.ORACLE and rule.threshold != 1:
            raise InputError(f"the threshold of oracle is {rule.threshold:g}, expected 1")
    if any(rule.policy == Policy.CLASSIFIER for rule in rules):
        _check_classifier(classifier, config)


def _check_classifier(classifier: ExitClassifier | None, config: ModelConfig) -> None:
    if classifier is None:
        raise InputError("a rule asks a classifier, but none was given")
    found = tuple(np.shape(x) for x in classifier)
    expected = ((config.num_hidden_layers, config.hidden_size), (config.num_hidden_layers,))
    if found != expected:
        raise InputError(
            f"the classifier's weights and bias are {found[0]} and {found[1]}, expected "
            f"{expected[0]} and {expected[1]}"
        )
