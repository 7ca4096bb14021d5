"""A depth for every token: by a slow twin, static truncation, and what full depth would say."""

import itertools

import jax
import numpy as np
import pytest
from flax import nnx
from numpy_twin import GRADED, Slow, bars_of, softmax
from parity_grid import some_now, spoken_cases
from tiny import NEW_TOKENS, model_of, prompts

import jaxdepth
from jaxdepth import InputError
from jaxdepth.depth import dynamic
from jaxdepth.depth.decode import prefill
from jaxdepth.depth.dynamic import generate_dynamic
from jaxdepth.depth.dynamic_loop import decode_dynamic
from jaxdepth.depth.generation import split
from jaxdepth.depth.guard import HarmProbe
from jaxdepth.depth.policies import Caching, ExitClassifier, ExitRule, Guard, Policy
from jaxdepth.depth.sampling import Sampling

pytestmark = pytest.mark.usefixtures("quick_programs")

CASES = spoken_cases()
T = NEW_TOKENS
LATE, PROPAGATE = Caching.LATE, Caching.PROPAGATE
BARS = dict.fromkeys(GRADED, (0.1, 0.5))


def classifier_of(seed: int = 2) -> ExitClassifier:
    rng = np.random.default_rng(seed)
    return ExitClassifier(rng.standard_normal((4, 64)) * 0.3, rng.standard_normal(4))


def harm_probe(seed: int = 3) -> HarmProbe:
    rng = np.random.default_rng(seed)
    weights, centre = rng.standard_normal((2, 5, 64)) * 0.2
    return HarmProbe(weights, centre, rng.standard_normal(5) * 0.1)


PROBES = {"content": harm_probe(), "other": harm_probe(4)}


def guarded(bars, exits) -> list[ExitRule]:
    """Calm tokens exit at the first candidate, or at the deepest but full depth."""
    low, high = bars.get(Policy.GUARDED, (0.4, 0.6))
    deep, shallow = max({*exits} - {4}), Guard("content", 1)
    return [
        ExitRule(Policy.GUARDED, low, None, PROPAGATE, shallow),
        ExitRule(Policy.GUARDED, high, None, LATE, shallow),
        ExitRule(Policy.GUARDED, low, None, LATE, Guard("other", deep, deep)),
    ]


def grid(bars, exits) -> list[ExitRule]:
    """As many rules whatever the candidates are, so that all share a program."""
    graded = [
        ExitRule(policy, bar, decay, caching)
        for policy, (low, high) in bars.items()
        if policy in GRADED
        for bar, decay, caching in ((low, None, PROPAGATE), (high, None, LATE), (low, 3.0, LATE))
    ]
    counted = [(2, PROPAGATE), (2, LATE), (3, LATE)]
    fixed = itertools.islice(itertools.cycle(sorted({*exits, 4})), 4)
    return [
        *graded,
        ExitRule(Policy.TOP1, bars[Policy.TOP1][0], 1.0, PROPAGATE),
        ExitRule(Policy.SATURATION, 0.0),
        *(ExitRule(Policy.PATIENCE, times, None, caching) for times, caching in counted),
        ExitRule(Policy.ORACLE, 1.0),
        *guarded(bars, exits),
        *(ExitRule(Policy.FIXED, d, None, c) for d, c in itertools.product(fixed, Caching)),
    ]


def run(model, rules, exits, stop_tokens=(-1, -1), guard_answers=False):
    """As many end tokens always, for one program; by default no token is one."""
    return generate_dynamic(
        model,
        *prompts(),
        rules,
        exits,
        T,
        stop_tokens=stop_tokens,
        classifier=classifier_of(),
        probes=PROBES,
        guard_answers=guard_answers,
    )


def check_lane(actual, b, r, expected, rule):
    decoded, exit, score, confidence = expected
    assert actual.tokens[b, r, 0].tolist() == decoded.tolist(), rule
    assert actual.exits[b, r, 0].tolist() == exit.tolist(), rule
    assert np.abs(actual.scores[b, r, 0] - score).max() < 1e-4, rule
    assert np.abs(actual.confidence[b, r, 0] - confidence).max() < 1e-4, rule


@pytest.mark.parametrize(
    ("name", "exits"),
    [
        ("mha-below-untied-odd-1e6", [1, 2, 3, 4]),
        ("mqa-below-tied-even-1e4", [1, 3]),
        ("gqa-equal-tied-even-1e6", [2, 1]),
        ("gqa-none-untied-odd-1e4", [3, 2]),
    ],
)
def test_every_rule_equals_the_slow_twin(name, exits):
    model, (tokens, lengths) = model_of(CASES[name]), prompts()
    slow = Slow(model, classifier_of(), PROBES)
    prefilled = [slow.prompt(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    bars = bars_of(slow, *prefilled[1], lengths[1], exits)
    calm = sorted(slow.calmness(Guard("content", 1), streams) for streams, _ in prefilled)
    bars[Policy.GUARDED] = tuple(np.add(calm[:2], calm[1:]) / 2)
    rules = grid(bars, exits)
    actual = run(model, rules, exits)
    for (r, rule), b in itertools.product(enumerate(rules), range(3)):
        check_lane(actual, b, r, slow.say(*prefilled[b], lengths[b], rule, exits), rule)
    for policy, caching in itertools.product(set(Policy) - {Policy.FIXED, Policy.ORACLE}, Caching):
        own = [
            r for r, rule in enumerate(rules) if (rule.policy, rule.caching) == (policy, caching)
        ]
        assert len(np.unique(actual.exits[:, own])) > 1, (policy, caching)
    assert set(actual.exits.ravel().tolist()) == {*exits, 4}


@pytest.mark.parametrize("name", some_now(CASES))
def test_a_fixed_exit_is_static_truncation(name, golden):
    exits = [1, 2, 3, 4]
    rules = grid(BARS, exits)
    actual = run(model_of(CASES[name]), rules, exits)
    # What Hugging Face's `generate` said there, and `jaxdepth.generate` says: see test_decode.py.
    static = golden("tiny_tokens.npz")[name]
    fixed = [r for r, rule in enumerate(rules) if rule.policy == Policy.FIXED]
    assert {(rules[r].threshold, rules[r].caching) for r in fixed} == set(
        itertools.product(exits, Caching)
    )
    for r in fixed:
        exit = rules[r].threshold
        assert np.array_equal(actual.tokens[:, r, 0], static[:, exit - 1]), rules[r]
        assert (actual.exits[:, r] == exit).all()
        assert (actual.scores[:, r] == exit).all()
    assert (actual.lengths == T).all()


# What rules share, on one model whose window is crossed


CASE = "mha-below-untied-odd-1e6"


@pytest.fixture(scope="module")
def model():
    return model_of(CASES[CASE])


@pytest.fixture(scope="module")
def static(golden):
    """(B, E, T): the greedy tokens of every exit."""
    return golden("tiny_tokens.npz")[CASE]


@pytest.fixture(scope="module")
def rules():
    return grid(BARS | {Policy.TOP1: (0.08, 0.1), Policy.MARGIN: (0.02, 0.03)}, [1, 3])


@pytest.fixture(scope="module")
def actual(model, rules):
    return run(model, rules, [1, 3])


def test_a_threshold_that_is_never_reached_is_full_depth(model, static, rules):
    bars = [(policy, 1.1) for policy in GRADED] + [(Policy.PATIENCE, 99)]
    never = [ExitRule(p, bar, None, caching) for p, bar in bars for caching in Caching]
    deep = run(model, list(itertools.islice(itertools.cycle(never), len(rules))), [1, 2, 3])
    assert (deep.exits == 4).all()
    assert np.array_equal(deep.tokens[:, :, 0], np.repeat(static[:, 3:], len(rules), axis=1))


def test_a_guard_along_the_answer_is_the_slow_twin(model, rules, actual):
    """What was calm may alarm later, and then stays at full depth."""
    own = [r for r, rule in enumerate(rules) if rule.policy == Policy.GUARDED]
    assert all(
        (actual.exits[b, r] == actual.exits[b, r, 0, 0]).all() for b in range(3) for r in own
    )
    before = decode_dynamic._cache_size()
    along = run(model, rules, [1, 3], guard_answers=True)
    assert decode_dynamic._cache_size() == before
    slow, (tokens, lengths) = Slow(model, classifier_of(), PROBES, True), prompts()
    for b in range(3):
        prefilled = slow.prompt(tokens[b, : lengths[b]])
        for r in own:
            check_lane(along, b, r, slow.say(*prefilled, lengths[b], rules[r], [1, 3]), rules[r])
    assert (np.diff(along.exits[:, own], axis=-1) >= 0).all()
    assert (np.diff(along.exits[:, own], axis=-1) > 0).any()
    others = [r for r in range(len(rules)) if r not in own]
    assert np.array_equal(along.exits[:, others], actual.exits[:, others])


def logits_on_the_way(model, tokens, length, decoded) -> np.ndarray:
    """(T, 4, V): logits at every exit before each token said, each text from scratch."""
    texts = np.zeros((T, len(tokens) + T), np.int64)
    for t in range(T):
        texts[t, : length + t] = [*tokens[:length], *decoded[:t]]
    every = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0), out_axes=1)
    return np.asarray(every(model, texts, length + np.arange(T), np.arange(1, 5)))


def test_late_caches_are_those_of_never_having_skipped(model, rules, actual):
    tokens, lengths = prompts()
    late = [r for r, rule in enumerate(rules) if rule.caching == LATE and rule.policy in GRADED]
    assert len(np.unique(actual.exits[:, late])) == 3
    for r, b in itertools.product(late, range(3)):
        decoded, exits = actual.tokens[b, r, 0], actual.exits[b, r, 0]
        logits = logits_on_the_way(model, tokens[b], lengths[b], decoded)[np.arange(T), exits - 1]
        assert np.array_equal(logits.argmax(-1), decoded)
        ordered = np.sort(softmax(logits))
        assert np.abs(ordered[:, -1] - actual.confidence[b, r, 0]).max() < 1e-5
        if rules[r].policy == Policy.MARGIN:
            margin = ordered[:, -1] - ordered[:, -2]
            assert np.abs(margin - actual.scores[b, r, 0]).max() < 1e-5


def test_the_oracle_says_what_full_depth_says_as_early_as_it_can(model, static, rules, actual):
    tokens, lengths = prompts()
    r = next(r for r, rule in enumerate(rules) if rule.policy == Policy.ORACLE)
    assert np.array_equal(actual.tokens[:, r, 0], static[:, 3])
    assert (actual.scores[:, r] == 1).all()
    for b in range(3):
        logits = logits_on_the_way(model, tokens[b], lengths[b], actual.tokens[b, r, 0])
        right = (logits.argmax(-1) == actual.tokens[b, r, 0][:, None])[:, [0, 2, 3]]
        assert np.array_equal(actual.exits[b, r, 0], np.array([1, 3, 4])[right.argmax(-1)])
    assert set(actual.exits[:, r].ravel().tolist()) == {1, 3, 4}


def test_only_candidates_are_right(model, static):
    """Full depth says token 0 here, which is nobody's most probable where nothing is read."""
    head_VD = np.array(model.head[...])
    first = static[0, 3, 0]
    head_VD[[0, first]] = head_VD[[first, 0]]
    turned = jax.tree.map(lambda leaf: leaf, model)
    turned.head = nnx.Param(head_VD)
    rules = grid(BARS, [2])
    r = next(r for r, rule in enumerate(rules) if rule.policy == Policy.ORACLE)
    actual = run(turned, rules, [2])
    assert actual.tokens[0, r, 0, 0] == 0
    assert set(actual.exits[:, r].ravel().tolist()) <= {2, 4}


def test_lanes_end_early_and_apart(model, rules, actual):
    stops = (int(actual.tokens[0, 0, 0, 2]), int(actual.tokens[1, 5, 0, 5]))
    short = run(model, rules, [1, 3], stop_tokens=stops)
    for b, r in itertools.product(range(3), range(len(rules))):
        ends = np.flatnonzero(np.isin(actual.tokens[b, r, 0], stops))
        length = ends[0] + 1 if len(ends) else T
        assert short.lengths[b, r, 0] == length
        for name in ("tokens", "exits", "scores", "confidence"):
            own, whole = getattr(short, name)[b, r, 0], getattr(actual, name)[b, r, 0]
            assert np.allclose(own[:length], whole[:length], atol=1e-5), name
            assert (own[length:] == 0).all(), name
    assert len(np.unique(short.lengths)) > 2


# Draws and splits


DRAWN = [
    *(ExitRule(Policy.FIXED, exit) for exit in (1, 2, 3, 4)),
    *(ExitRule(Policy.FIXED, exit, None, PROPAGATE) for exit in (1, 3)),
    *(ExitRule(Policy.TOP1, 1.1, None, caching) for caching in Caching),
    ExitRule(Policy.PATIENCE, 99),
    ExitRule(Policy.TOP1, 0.08),
    ExitRule(Policy.MARGIN, 0.03),
    ExitRule(Policy.PATIENCE, 2, None, PROPAGATE),
    ExitRule(Policy.SATURATION, 0.9, 2.0, PROPAGATE),
    ExitRule(Policy.ORACLE, 1.0),
]
DRAWING = {"samples": 2, "sampling": Sampling(1.2), "seeds_B": [7, 8, 9]}


@pytest.fixture(scope="module")
def drawn(model):
    return generate_dynamic(model, *prompts(), DRAWN, [1, 2, 3], 8, **DRAWING)


def test_a_sampled_fixed_exit_is_sampled_static_truncation(model, drawn):
    static = jaxdepth.generate(model, *prompts(), [1, 2, 3, 4], 8, segments=1, **DRAWING)
    assert np.array_equal(drawn.tokens[:, :4], static.tokens)
    assert np.array_equal(drawn.tokens[:, 4:6], static.tokens[:, [0, 2]])


def test_other_draws_depend_on_seed_and_sample_alone(drawn):
    never = drawn.tokens[:, 6:9]
    assert (drawn.exits[:, 6:9] == 4).all()
    assert np.array_equal(never[:, 0], never[:, 1])
    assert np.array_equal(never[:, 0], never[:, 2])
    assert not np.array_equal(never[:, 0, 0], never[:, 0, 1])
    assert not np.array_equal(never[:, 0], drawn.tokens[:, 3])  # the exit fixed at 4


def test_every_lane_alone_gives_the_same(model, drawn, monkeypatch):
    groups = []

    def watched(*args):
        groups.extend(split(*args))
        return groups

    monkeypatch.setattr(dynamic, "split", watched)
    budget = dynamic._bytes(model, DRAWN[-1:], 1, 64, 8, 1)
    alone = generate_dynamic(
        model, *prompts(), DRAWN, [1, 2, 3], 8, memory_budget=budget, **DRAWING
    )
    assert len(groups) == drawn.lengths.size
    for own, whole in zip(alone, drawn, strict=True):
        assert np.allclose(own, whole, atol=1e-5)
    assert all(len(np.unique(drawn.exits[:, r])) > 1 for r in range(9, len(DRAWN)))
    with pytest.raises(InputError, match=f"memory budget is {budget - 1:,}"):
        generate_dynamic(model, *prompts(), DRAWN, [1, 2, 3], 8, memory_budget=budget - 1)


# What is compiled


def test_other_rules_are_no_other_program(model, rules, actual):
    before = decode_dynamic._cache_size(), prefill._cache_size()
    others = grid({policy: (0.9, 0.2) for policy in reversed(GRADED)}, [2])[::-1]
    other = run(model, others, [2])
    assert not np.array_equal(other.exits, actual.exits)
    assert (decode_dynamic._cache_size(), prefill._cache_size()) == before
