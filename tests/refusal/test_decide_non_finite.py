"""Verdicts where logits are NaN or infinite: lanes say so, and all others are as they would be."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import prompts, raw_config

from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.refusal.decide import decide
from jaxdepth.refusal.protocol import Markers

pytestmark = pytest.mark.usefixtures("quick_programs")

EXITS, N, A = (1, 3), 6, 5
MARKERS = Markers((), (90, 91), (92, 93, 94), ("refuse", "partial", "comply"))
TOKENS, LENGTHS = (array[:, :8] if array.ndim == 2 else np.minimum(array, 8) for array in prompts())


def model_with(*broken: int) -> Mistral:
    """A model for which the embeddings of some tokens are NaN."""
    config = ModelConfig.from_hf(raw_config(num_hidden_layers=3))
    arrays = tiny.leaves_of(config, tiny.hf_tensors(config))
    arrays["embed"] = arrays["embed"].copy()
    arrays["embed"][list(broken)] = np.nan
    return Mistral(config, {name: jnp.asarray(array) for name, array in arrays.items()})


def run(model, **changes):
    request = {"thought_tokens": N, "answer_tokens": A, "cuts": (0, 2), "force": True} | changes
    return decide(model, TOKENS, LENGTHS, EXITS, MARKERS, **request)


@pytest.fixture(scope="module")
def whole():
    return run(model_with())


def test_finite_lanes_say_so(whole):
    assert whole.finite.all()
    assert whole.forced_finite.all()
    assert np.isfinite(whole.cut_logp).all()
    assert (whole.verdict >= 0).all()


def tokens_of(whole, lane) -> tuple[list[int], list[int]]:
    """The thought and the answer of a lane."""
    start = whole.thought[lane] + 3
    tokens = whole.tokens[lane]
    return tokens[: whole.thought[lane]].tolist(), tokens[start : whole.lengths[lane]].tolist()


def test_a_thought_of_none_has_no_verdict(whole):
    """The token that breaks is the second that a lane thinks: its third is chosen from NaN."""
    lane = (1, 1, 0)
    token = tokens_of(whole, lane)[0][1]
    actual = run(model_with(token))
    assert not actual.finite[lane]
    assert actual.verdict[lane] == -1
    assert actual.lengths[lane] == 3
    assert np.isnan(actual.cut_logp[lane]).all()
    assert not actual.forced_finite[lane].any()
    others = 0
    for other in np.ndindex(whole.finite.shape):
        if token not in [*TOKENS[other[0]], *whole.tokens[other]]:  # padding counts too
            others += 1
            assert actual.finite[other]
            assert actual.tokens[other].tolist() == whole.tokens[other].tolist()
            np.testing.assert_allclose(actual.logp[other], whole.logp[other], atol=1e-5)
    assert others


def test_an_answer_of_none_keeps_the_verdict(whole):
    """A token that a lane writes in its answer alone."""
    for lane in np.ndindex(whole.finite.shape):
        thought, answer = tokens_of(whole, lane)
        prompt = TOKENS[lane[0], : LENGTHS[lane[0]]].tolist()
        own = [t for t in answer[:-1] if t not in [*prompt, *thought, *range(90, 95)]]
        if own:
            break
    actual = run(model_with(own[0]))
    assert not actual.finite[lane]
    assert actual.verdict[lane] == whole.verdict[lane]
    np.testing.assert_allclose(actual.logp[lane], whole.logp[lane], atol=1e-5)
    assert actual.lengths[lane] == whole.thought[lane] + 3 + answer.index(own[0]) + 2


def test_a_verdict_of_none(whole):
    """The last token of the closing marker breaks: verdicts are read after it."""
    actual = run(model_with(91))
    assert not actual.finite.any()
    is_closed = actual.verdict >= 0  # others thought of that token
    assert is_closed.any()
    assert np.isnan(actual.logp[is_closed]).all()
    assert np.isnan(actual.cut_logp).all()
    assert not actual.forced_finite.any()
    assert actual.thought[is_closed].tolist() == whole.thought[is_closed].tolist()


def test_what_follows_the_end_of_a_lane_is_no_part_of_it(whole):
    """Lanes that have ended are fed token 0 until the others have; that breaks nothing."""
    stop = tokens_of(whole, (0, 0, 0))[1][0]
    changes = {"stop_tokens": (stop,), "cuts": (), "force": False}
    expected, actual = run(model_with(), **changes), run(model_with(0), **changes)
    used = [
        expected.tokens[lane][: expected.lengths[lane]]
        for lane in np.ndindex(expected.finite.shape)
    ]
    assert len(set(map(len, used))) > 1
    clean = np.array(
        [
            0 not in [*TOKENS[b], *used[n]]
            for n, (b, *_) in enumerate(np.ndindex(expected.finite.shape))
        ]
    )
    assert clean.sum() > 1
    assert (actual.finite.ravel() == clean).all()
