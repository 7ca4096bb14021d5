"""The filter that closes thoughts, under attack; rules; and thoughts that are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinker import BITS, parity_prompts, thinker

from jaxdepth import InputError
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.refusal.decide import decide
from jaxdepth.refusal.deliberate import DeliberationSampler, Rule, margin

pytestmark = pytest.mark.usefixtures("quick_programs")

# The filter


CLOSE, VERDICTS, STOPS, VOCAB = (4, 5, 4, 6), (7, 8, 9), (1, 2), 12


@settings(max_examples=300, deadline=None)
@given(
    # Markers, halves of them, markers that begin within one, verdicts, end tokens and others.
    st.lists(
        st.sampled_from(
            [
                CLOSE,
                CLOSE,
                (4, 5),
                (4, 5, 4),
                (4, 5, *CLOSE),
                (6,),
                (7,),
                (8,),
                (9,),
                (1,),
                (0,),
                (10,),
            ]
        ),
        min_size=24,
        max_size=24,
    ).map(lambda pieces: [token for piece in pieces for token in piece][:24]),
    st.integers(0, 8),
    st.integers(0, 5),
)
def test_the_filter_on_a_model_that_says_anything(stream, budget, answer):
    """The tokens that a model wants, whatever they look like, against a filter by index."""
    T = budget + len(CLOSE) + 1 + answer
    sampler = DeliberationSampler(
        close=jnp.array(CLOSE), verdicts=jnp.array(VERDICTS), stop_tokens=jnp.array(STOPS),
        budgets=jnp.full((1, 1), budget), forced=jnp.full((1, 1), -1), script=None,
        answer=jnp.int32(answer), sampling=Sampling(), rule=Rule(),
    )  # fmt: skip
    state, tokens, decoded = sampler.start(1, 1), np.zeros((1, 1, T), np.int32), []
    for step in range(T):
        logits = jax.nn.one_hot(jnp.array([[stream[step]]]), VOCAB)
        token, done, state = NEXT(sampler, state, logits, tokens, jnp.int32(step), KEY)
        tokens[0, 0, step] = int(token[0, 0])
        decoded.append(int(token[0, 0]))
        if done:
            break
    assert bool(done)

    # By hand
    thought, place = [], 0
    while len(thought) < budget and stream[place] not in STOPS:
        thought.append(stream[place])
        place += 1
        if tuple(thought[-4:]) == CLOSE:
            thought = thought[:-4]
            break
    expected = stream[len(thought) + 4]
    verdict = expected if expected in VERDICTS else VERDICTS[0]
    rest = stream[len(thought) + 5 :][:answer]
    ends = [n for n, token in enumerate(rest) if token in STOPS]
    seen = rest[: ends[0] + 1] if ends else rest
    assert decoded == [*thought, *CLOSE, verdict, *seen]
    assert int(state.thought[0, 0]) == len(thought)
    assert decoded[len(thought) + len(CLOSE) + 1 :] == seen


KEY = lane_keys([0], [1], [0])[0]
NEXT = jax.jit(lambda sampler, *args: sampler.next(*args))


# Thoughts that are used


def test_a_thought_is_used():
    """The parity of four bits in the prompt: one step a token, so four tokens of thought."""
    model, markers = thinker()
    tokens, lengths, parity = parity_prompts()
    assert parity.sum() == len(parity) / 2 == 8

    def right(logp_B3):
        return np.mean((logp_B3.argmax(-1) == 0) == parity)

    how = {"thought_tokens": BITS, "answer_tokens": 0}
    whole = decide(model, tokens, lengths, [1, 2], markers, cuts=range(BITS + 1), **how)
    without = decide(model, tokens, lengths, [1, 2], markers, thought_tokens=0, answer_tokens=0)
    # The thought of a prompt of other parity
    other = np.array([next(o for o in range(16) if parity[o] != parity[n]) for n in range(16)])
    given = whole.tokens[other][..., :BITS], whole.thought[other]
    swapped = decide(model, tokens, lengths, [1, 2], markers, thoughts=given, **how)
    for e in range(2):
        assert right(whole.logp[:, e, 0]) == 1.0
        assert right(without.logp[:, e, 0]) == 0.5
        along = [right(whole.cut_logp[:, e, 0, cut]) for cut in range(BITS + 1)]
        assert along == [0.5] * BITS + [1.0]
        assert right(swapped.logp[:, e, 0]) == 0.0


@pytest.mark.parametrize(
    "bad",
    [{"temperature": 0.0}, {"refuse_from": 0.5}, {"abstain_below": 2.0}],
    ids=str,
)
def test_bad_rules(bad):
    with pytest.raises(InputError, match=r"temperature|belong together|abstain_below"):
        Rule(**bad)


def test_margin():
    assert margin(jnp.array([0.2, 0.7, 0.1])) == pytest.approx(0.5)
