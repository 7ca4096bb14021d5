"""Think, then decide: every lane equals a plain loop over tokens, at the cost of plain lanes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import model_of, prompts, raw_config

import jaxdepth
from jaxdepth import InputError
from jaxdepth.depth.generation import generate
from jaxdepth.depth.sampling import Sampling, choose, lane_keys
from jaxdepth.refusal.decide import decide, shown
from jaxdepth.refusal.deliberate import ABSTAINS, ClosedBy, DeliberationSampler, Rule
from jaxdepth.refusal.protocol import Markers

pytestmark = pytest.mark.usefixtures("quick_programs")

EXITS = [1, 2, 3]
N, A = 9, 5
WORDS = ("refuse", "partial", "comply")


def markers_of(close=(90, 91), verdicts=(92, 93, 94)) -> Markers:
    return Markers((), tuple(close), tuple(verdicts), WORDS)


def slow_twin(
    model, tokens, length, exit, markers, new=(N, A), *, stops=(), rule=Rule(), pick=None,  # noqa: B008
    thought=None, verdict=None,
):  # fmt: skip
    """One prompt, one exit, one vote: a plain loop that runs the model anew for every token."""
    most, answer_tokens = new
    close = list(markers.close)
    ids = np.zeros((1, len(tokens) + N + A + 8), np.int64)  # one shape, one program
    ids[0, :length] = tokens[:length]
    decoded: list[int] = []

    def logits():
        ids[0, length : length + len(decoded)] = decoded
        return jaxdepth.exit_logits(model, ids, np.array([length + len(decoded)]), exit)[0]

    def draw():
        return int(np.argmax(logits())) if pick is None else pick(logits(), len(decoded))

    closed_by = ClosedBy.BUDGET
    if thought is not None:
        decoded, closed_by = [int(t) for t in thought], ClosedBy.CUT
    else:
        while len(decoded) < most:
            token = draw()
            if token in stops:
                closed_by = ClosedBy.END
                break
            decoded.append(token)
            if decoded[-len(close) :] == close:
                closed_by = ClosedBy.MODEL
                break
    if closed_by == ClosedBy.MODEL:
        length_of_thought = len(decoded) - len(close)
    else:
        length_of_thought = len(decoded)
        decoded += close
    logp = np.asarray(jax.nn.log_softmax(logits()))[list(markers.verdicts)]
    p = np.exp(logp / rule.temperature)
    p /= p.sum()
    chosen = int(np.argmax(p))
    if rule.refuse_from is not None:
        chosen = 0 if p[0] >= rule.refuse_from else 1 if p[0] + p[1] >= rule.caution_from else 2
    if np.diff(np.sort(p))[-1] < rule.abstain_below:
        chosen = ABSTAINS
    if verdict is not None:
        chosen = verdict
    decoded.append(markers.verdicts[int(np.argmax(logp)) if chosen == ABSTAINS else chosen])
    start = len(decoded)
    while chosen != ABSTAINS and len(decoded) - start < answer_tokens:
        decoded.append(draw())
        if decoded[-1] in stops:
            break
    return decoded, length_of_thought, closed_by, logp, chosen


def equal(actual, place, twin) -> None:
    decoded, thought, closed_by, logp, verdict = twin
    assert actual.tokens[place][: actual.lengths[place]].tolist() == decoded
    assert actual.thought[place] == thought
    assert actual.closed_by[place] == closed_by
    assert np.abs(actual.logp[place] - logp).max() < 1e-4
    assert actual.verdict[place] == verdict


@pytest.fixture(scope="module")
def model():
    return model_of(raw_config(num_hidden_layers=3, sliding_window=8))  # crossed by thoughts


@pytest.fixture(scope="module")
def greedy(model):
    """What each exit says when nothing ends it."""
    return generate(model, *prompts(), EXITS, N + A + 4)


@pytest.fixture(scope="module")
def natural(greedy):
    """A closing marker that some lanes write themselves, and tokens that end others."""
    close = greedy.tokens[0, 2, 3:5].tolist()
    stops = (int(greedy.tokens[1, 1, 4]), int(greedy.tokens[2, 0, 6]))
    return markers_of(close), stops


def test_lanes_equal_the_slow_twin(model, natural):
    markers, stops = natural
    tokens, lengths = prompts()
    actual = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=N, answer_tokens=A, stop_tokens=stops
    )
    for b, e in itertools.product(range(3), range(3)):
        twin = slow_twin(model, tokens[b], lengths[b], EXITS[e], markers, stops=stops)
        equal(actual, (b, e, 0), twin)
        assert shown(actual, markers, b, e, 0).tolist() == twin[0][twin[1] + 3 :]
    assert set(actual.closed_by.ravel().tolist()) == {
        ClosedBy.MODEL, ClosedBy.BUDGET, ClosedBy.END,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("close", "new"),
    [((90,), (0, 4)), ((90, 91), (3, 0)), ((90, 91, 90, 91, 95), (1, 4)), ((90,), (0, 0))],
    ids=str,
)
def test_short_thoughts_and_answers(model, close, new):
    markers, (tokens, lengths) = markers_of(close), prompts()
    actual = decide(
        model, tokens, lengths, [3, 1], markers, thought_tokens=new[0], answer_tokens=new[1]
    )
    for b, e in itertools.product(range(3), range(2)):
        equal(actual, (b, e, 0), slow_twin(model, tokens[b], lengths[b], (3, 1)[e], markers, new))


RULES = [
    Rule(temperature=3.0),
    Rule(refuse_from=0.3, caution_from=0.7),
    Rule(refuse_from=0.0, caution_from=0.0),
    Rule(abstain_below=0.1),
    Rule(abstain_below=1.0),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules(model, rule):
    markers, (tokens, lengths) = markers_of(), prompts()
    actual = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=2, answer_tokens=3, rule=rule
    )
    for b, e in itertools.product(range(3), range(3)):
        twin = slow_twin(model, tokens[b], lengths[b], EXITS[e], markers, (2, 3), rule=rule)
        equal(actual, (b, e, 0), twin)


def test_sampled_votes_equal_the_slow_twin(model, natural):
    markers, stops = natural
    tokens, lengths = prompts()
    sampling = Sampling(temperature=1.0, top_k=30)
    keys = lane_keys([5, 6, 7], EXITS, range(3))
    actual = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=N, answer_tokens=A, votes=3,
        sampling=sampling, seeds_B=[5, 6, 7], stop_tokens=stops,
    )  # fmt: skip
    for b, e, m in ((0, 2, 0), (1, 1, 1), (2, 0, 2), (2, 2, 1), (1, 0, 0)):
        key = keys[e, m, b].reshape(1, 1)

        def pick(logits, step, key=key):
            return int(choose(logits[None, None], key, jnp.int32(step), sampling)[0, 0])

        twin = slow_twin(model, tokens[b], lengths[b], EXITS[e], markers, stops=stops, pick=pick)
        equal(actual, (b, e, m), twin)
    assert len({actual.tokens[0, 2, m].tobytes() for m in range(3)}) > 1


@pytest.mark.slow
def test_any_split_gives_the_same_verdicts(model, natural):
    markers, stops = natural
    tokens, lengths = prompts()
    how = {
        "thought_tokens": N, "answer_tokens": A, "votes": 3, "sampling": Sampling(1.0),
        "stop_tokens": stops, "cuts": (0, 2, 5), "force": True,
    }  # fmt: skip
    whole = decide(model, tokens, lengths, EXITS, markers, seeds_B=[5, 6, 7], **how)
    # By the budget: one prompt, then one vote, then two exits at a time.
    split = decide(
        model, tokens, lengths, EXITS, markers, seeds_B=[5, 6, 7], memory_budget=300_000, **how
    )
    alone = decide(model, tokens[1:2], lengths[1:2], [3], markers, seeds_B=[6], **how)
    for some, one, every in zip(split, alone, whole, strict=True):
        assert np.allclose(some, every, atol=1e-4)
        assert np.allclose(one[0, 0], every[1, 2], atol=1e-4)


def test_cuts_and_forced_verdicts_equal_the_slow_twin(model, natural):
    markers, stops = natural
    tokens, lengths = prompts()
    cuts = (0, 1, 4, 100)
    actual = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=N, answer_tokens=A, votes=2,
        sampling=Sampling(0.7), stop_tokens=stops, cuts=cuts, force=True,
    )  # fmt: skip
    assert actual.cut_logp.shape == (3, 3, 2, 4, 3)
    for b, e, m in ((0, 2, 0), (1, 1, 1), (2, 2, 0), (0, 0, 1)):
        thought = actual.tokens[b, e, m, : actual.thought[b, e, m]]
        for c, cut in enumerate(cuts):
            twin = slow_twin(
                model, tokens[b], lengths[b], EXITS[e], markers, (N, 0), thought=thought[:cut]
            )
            assert np.abs(actual.cut_logp[b, e, m, c] - twin[3]).max() < 1e-4
        # The whole thought is what was decided upon.
        assert np.abs(actual.cut_logp[b, e, m, -1] - actual.logp[b, e, m]).max() < 1e-4
    # Answers are sampled; greedy ones can be told.
    actual = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=N, answer_tokens=A,
        stop_tokens=stops, force=True,
    )  # fmt: skip
    for b, e, v in ((0, 2, 0), (1, 1, 1), (2, 2, 2), (2, 0, 0)):
        thought = actual.tokens[b, e, 0, : actual.thought[b, e, 0]]
        decoded, *_ = slow_twin(
            model, tokens[b], lengths[b], EXITS[e], markers, stops=stops, thought=thought, verdict=v
        )
        answer = decoded[len(thought) + 3 :]
        assert actual.forced_lengths[b, e, 0, v] == len(answer)
        assert actual.forced[b, e, 0, v, : len(answer)].tolist() == answer
        if v == actual.verdict[b, e, 0]:
            assert shown(actual, markers, b, e, 0).tolist() == answer


def test_a_cut_is_a_shorter_thought(model):
    markers, (tokens, lengths) = markers_of(), prompts()
    long = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=N, answer_tokens=0, cuts=(0, 3)
    )
    for c, budget in enumerate((0, 3)):
        short = decide(
            model, tokens, lengths, EXITS, markers, thought_tokens=budget, answer_tokens=0
        )
        assert np.abs(long.cut_logp[:, :, :, c] - short.logp).max() < 1e-4


def test_given_thoughts_equal_the_slow_twin(model):
    markers, (tokens, lengths) = markers_of(), prompts()
    rng = np.random.default_rng(0)
    thoughts = rng.integers(0, 90, (3, 3, 1, N))
    given_lengths = rng.integers(0, N + 1, (3, 3, 1))
    actual = decide(
        model, tokens, lengths, EXITS, markers, thought_tokens=N, answer_tokens=A,
        thoughts=(thoughts, given_lengths), verdict=1,
    )  # fmt: skip
    assert (actual.verdict == 1).all()
    for b, e in itertools.product(range(3), range(3)):
        thought = thoughts[b, e, 0, : given_lengths[b, e, 0]]
        twin = slow_twin(
            model, tokens[b], lengths[b], EXITS[e], markers, thought=thought, verdict=1
        )
        equal(actual, (b, e, 0), twin)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"thought_tokens": -1}, "thought_tokens is -1"),
        ({"votes": 0}, "votes is 0"),
        ({"cuts": (3, -1)}, "a cut is -1"),
        ({"answer_tokens": 250}, "256 that this model takes"),
        ({"memory_budget": 10}, "memory budget is 10"),
    ],
    ids=str,
)
def test_bad_arguments(model, changes, says):
    how = {"thought_tokens": 1, "answer_tokens": 1} | changes
    with pytest.raises(InputError, match=says):
        decide(model, *prompts(), [1], markers_of(), **how)


def test_markers_in_a_prompt_move_nothing(model):
    """A thousand prompts full of markers and verdicts, as plain-text protocols can have them."""
    markers = markers_of()
    rng = np.random.default_rng(0)
    loud = [*markers.close, *markers.verdicts]
    tokens = rng.choice([*loud, *range(10, 20)], (1000, 24), p=[0.15] * 5 + [0.025] * 10)
    tokens[:, -3:] = [*markers.close, markers.verdicts[2]]
    lengths = rng.integers(12, 25, 1000)
    actual = decide(model, tokens, lengths, [1, 3], markers, thought_tokens=6, answer_tokens=2)
    # A lane says its thought, the marker, a verdict and an answer, whatever its prompt holds.
    decoded = actual.thought + len(markers.close) + 1 + 2
    assert np.array_equal(actual.lengths, decoded)
    for place in np.ndindex(1000, 2, 1):
        spoken, thought = actual.tokens[place], actual.thought[place]
        assert tuple(spoken[thought : thought + 2]) == markers.close
        assert spoken[thought + 2] == markers.verdicts[actual.verdict[place]]
        if actual.closed_by[place] == ClosedBy.BUDGET:
            assert thought == 6
    assert (actual.closed_by == ClosedBy.BUDGET).mean() > 0.5
    for b in (0, 400, 999):
        equal(actual, (b, 1, 0), slow_twin(model, tokens[b], lengths[b], 3, markers, (6, 2)))


# Cost


def test_votes_cost_what_as_many_lanes_cost(model):
    """Counted in the compiled loops: five votes, and five samples."""
    from jaxdepth.depth.decode import decode, prefill
    from jaxdepth.depth.lanes import plan_segments
    from jaxdepth.depth.sampling import TokenSampler

    tokens, lengths = prompts()
    exits, plan, votes, T = jnp.array([3, 2, 1]), plan_segments(EXITS), 5, 12
    cache, picked = prefill(model, jnp.asarray(tokens), jnp.asarray(lengths), exits, 3)
    keys = lane_keys(range(3), [3, 2, 1], range(votes)).reshape(15, 3)
    think = DeliberationSampler(
        jnp.array([90, 91]), jnp.array([92, 93, 94]), jnp.zeros(0, jnp.int32),
        jnp.full((1, 1), 6), jnp.full((1, 1), -1), None, jnp.int32(3), Sampling(1.0), Rule(),
    )  # fmt: skip
    flops = []
    for sampler in (think, TokenSampler.of(Sampling(1.0), ())):
        compiled = decode.lower(
            model, cache, jnp.repeat(picked, votes, axis=0), jnp.asarray(lengths),
            jnp.repeat(exits, votes), keys, sampler, plan=plan, samples=votes, max_new_tokens=T,
        ).compile()  # fmt: skip
        flops.append(compiled.cost_analysis()["flops"])  # the loop's body counts once
    assert flops[0] == pytest.approx(flops[1], rel=0.02)
