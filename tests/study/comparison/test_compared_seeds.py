"""Models that were trained with several seeds, and answers in several samples."""

import numpy as np
import pytest
from studies import as_outcomes

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.summary import findings

REFUSE, COMPLY = Outcome.REFUSE, Outcome.COMPLY
N = 60


def compare(
    rng: np.random.Generator, rates: dict[str, float], spread: float = 0.0, seeds: int = 3
) -> Compared:
    """Models with some seeds each, which refuse 60 harmful prompts at some rate."""
    models, outcomes = [], []
    for name, rate in rates.items():
        for seed in range(1, 1 + seeds):
            models.append(name if seed == 1 else f"{name}-{seed}")
            refuses_N = rng.random(N) < np.clip(rate + spread * rng.standard_normal(), 0, 1)
            outcomes.append(np.where(refuses_N, REFUSE, COMPLY)[:, None].astype(object))
    groups_N = np.full(N, "set harmful")
    return Compared(tuple(models), (1,), groups_N, np.arange(N), as_outcomes(np.array(outcomes)))


@pytest.mark.parametrize("spread", [0.0, 0.08])
def test_intervals_over_seeds_cover(spread):
    """300 studies: intervals of a mean, and of a difference, hold what other seeds would give."""
    rng, missed = np.random.default_rng(0), np.zeros(3)
    for _ in range(300):
        c = compare(rng, {"a": 0.7, "b": 0.5}, spread)
        pooled = c.over_seeds()
        mean = pooled.over_exits("a", "harmful", [1], REFUSE)
        gap = pooled.difference("a", "b", "harmful", [1], REFUSE)
        one = c.over_exits("a", "harmful", [1], REFUSE)
        for n, (e, truth) in enumerate(((mean, 0.7), (gap, 0.2), (one, 0.7))):
            missed[n] += not e.low <= truth <= e.high
    assert (missed[:2] <= 27).all()  # binomial(300, 0.05): more with probability 0.001
    if spread:
        assert missed[2] > 27  # of one seed the interval is of prompts alone


def test_seeds_are_told_by_name():
    c = compare(np.random.default_rng(0), {"a": 0.7, "v-2": 0.5})
    assert c.models == ("a", "a-2", "a-3", "v-2", "v-2-2", "v-2-3")
    pooled = c.over_seeds()
    assert pooled.models == ("a", "v-2")  # there is no model v
    assert [pooled.seeds(m) for m in pooled.models] == [3, 3]
    shares = [c.share(m, "harmful", 1, REFUSE).value for m in c.models[:3]]
    assert pooled.share("a", "harmful", 1, REFUSE).value == pytest.approx(np.mean(shares))
    assert pooled.over_seeds() is pooled
    text = "\n".join(findings(c))
    assert "a, 3 seeds: refuses" in text
    one = compare(np.random.default_rng(0), {"a": 0.7}, seeds=1)
    assert "Over training seeds" not in "\n".join(findings(one))


def test_the_share_of_samples_counts():
    outcome_SNME = np.full((1, N, 4, 1), COMPLY, object)
    outcome_SNME[0, :, 0] = REFUSE
    c = Compared(("a",), (1,), np.full(N, "x harmful"), np.arange(N), (outcome_SNME,))
    e = c.share("a", "harmful", 1, REFUSE)
    assert e.value == 0.25
    assert c.answered("a", "harmful", REFUSE).samples == 4
