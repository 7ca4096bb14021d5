"""Plans of segments, and what a step of all exits costs in its compiled program."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from tiny import model_of, raw_config

from jaxdepth.depth import decode as engine
from jaxdepth.depth.lanes import describe, lane_layers, memory, plan_segments
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes

pytestmark = pytest.mark.usefixtures("quick_programs")


def brute_force(exits, count) -> int:
    deepest = max(exits)
    least = None
    for inner in itertools.combinations(range(1, deepest), count - 1):
        cuts = (0, *inner, deepest)
        work = sum((b - a) * sum(e > a for e in exits) for a, b in itertools.pairwise(cuts))
        least = work if least is None else min(least, work)
    return least


@pytest.mark.parametrize("exits", [[1, 2, 3, 4, 5, 6], [6, 6, 2], [7], [1, 9], [3, 4, 5, 9]])
def test_plans_are_the_best(exits):
    for count in range(1, max(exits) + 1):
        plan = plan_segments(exits, count)
        assert len(plan) == count
        assert lane_layers(plan) == brute_force(exits, count)
        assert [s.first for s in plan] == [0, *(s.last for s in plan[:-1])]
        assert plan[-1].last == max(exits)


def test_a_plan_in_words():
    assert describe(plan_segments([4, 2], 2), [4, 2]) == (
        "2 segments (layers 1-2: 2 exits; layers 3-4: 1 exits), 1.00 x the layers that the exits "
        "need"
    )


@pytest.mark.parametrize("depth", [2, 7, 30, 32, 80])
def test_chosen_plans_waste_little(depth):
    for exits in (range(1, depth + 1), [1, depth], [depth], range(max(1, depth - 5), depth + 1)):
        plan = plan_segments(exits)
        assert lane_layers(plan) <= 1.25 * sum(exits)


# What a step costs, counted


def lower_decode(model, B, S, new_tokens, exits, samples=1):
    """The compiled loop and the plan of its bytes; nothing is allocated."""
    plan, c = plan_segments(exits), model.config
    X = len(exits) * samples

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    kept = array(plan[-1].last, B, c.num_key_value_heads, S, c.head_dim)
    keys = jax.eval_shape(lambda: lane_keys(range(B), exits, range(samples)).reshape(X, B))
    lowered = engine.decode.lower(
        model,
        engine.PromptCache(kept, kept),
        array(X, B, c.hidden_size),
        array(B, dtype=jnp.int32),
        array(X, dtype=jnp.int32),
        keys,
        TokenSampler.of(Sampling(), [0]),
        plan=plan,
        samples=samples,
        max_new_tokens=new_tokens,
    )
    return lowered.compile(), memory(c, plan, B, S, new_tokens, samples, 4)


def test_a_step_copies_no_cache(optimised):
    """At SmolLM2's shapes: beyond the lane caches and the logits, temporaries are little.

    A copy of the caches would show as their whole size, one of a layer as 1/30 of it.
    """
    config = ModelConfig.from_hf(
        raw_config(
            num_hidden_layers=30, hidden_size=576, intermediate_size=1536, vocab_size=49152,
            num_attention_heads=9, num_key_value_heads=3, head_dim=64, tie_word_embeddings=True,
        )
    )  # fmt: skip
    shapes = parameter_shapes(config).items()
    model = Mistral(config, {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes})
    compiled, planned = lower_decode(model, B=8, S=512, new_tokens=512, exits=range(1, 31))
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    beyond = temporaries - planned.lane_cache - planned.logits
    assert beyond < 0.01 * (planned.prompt_cache + planned.lane_cache), f"{beyond:,} bytes"
    assert temporaries > 0.9 * planned.lane_cache
    assert "scatter(" not in compiled.as_text()


def test_the_planned_bytes_are_what_xla_reports(optimised):
    raw = raw_config(vocab_size=4096)
    compiled, planned = lower_decode(model_of(raw), B=8, S=64, new_tokens=64, exits=[1, 2, 3, 4])
    report = compiled.memory_analysis()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model_of(raw)))
    held = report.temp_size_in_bytes + report.argument_size_in_bytes - weights
    assert held == pytest.approx(planned.total, rel=0.15)
