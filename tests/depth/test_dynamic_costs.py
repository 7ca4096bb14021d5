"""What a step of per-token exits costs, in its compiled program: matmuls with the head, bytes."""

import re

import jax
import jax.numpy as jnp
import pytest
from tiny import model_of, raw_config

from jaxdepth.depth import dynamic
from jaxdepth.depth.dynamic_loop import decode_dynamic
from jaxdepth.depth.policies import ExitRule, Policy
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.model.cache import PromptCache

pytestmark = pytest.mark.usefixtures("quick_programs")


def lower_decode(model, rules, B, S, new_tokens):
    c, X = model.config, len(rules)
    cache = PromptCache(*(jnp.zeros((4, B, c.num_key_value_heads, S, c.head_dim)),) * 2)
    return decode_dynamic.lower(
        model,
        cache,
        jnp.zeros((4, B, c.hidden_size)),
        jnp.zeros(B, jnp.int32),
        jnp.full(B, S),
        dynamic._lane_rules(rules, [1, 2], None, None, 4, 1),
        lane_keys(range(B), range(X), [0]).reshape(X, B),
        TokenSampler.of(Sampling(), [0]),
        needs_logits=dynamic._needs_logits(rules),
        max_new_tokens=new_tokens,
    )


def test_heads_are_computed_for_readers_only(optimised):
    model = model_of(raw_config(vocab_size=104))  # a size that nothing else has
    blind = [ExitRule(Policy.SATURATION, 0.9), ExitRule(Policy.FIXED, 2)]
    lowered = lower_decode(model, blind, 2, 8, 4)
    assert heads(lowered, model) == 2  # first token, and at the exits
    # Whether a layer is run at all. What only asks for the platform is gone from what is compiled.
    assert lowered.compile().as_text().count(" conditional(") == 1


def heads(lowered, model) -> int:
    """How many products with the head a program has."""
    table = rf"tensor<{model.config.vocab_size}x{model.config.hidden_size}xf32>"
    return len(re.findall(rf"dot_general.*, {table}\)", lowered.as_text()))


def test_the_planned_bytes_hold_what_xla_reports(optimised):
    model = model_of(raw_config(vocab_size=4096))
    rules = [ExitRule(policy, 1.0) for policy in (Policy.TOP1, Policy.MARGIN, Policy.ORACLE)]
    lowered = lower_decode(model, rules, B=8, S=64, new_tokens=64)
    assert heads(lowered, model) > 2
    compiled = lowered.compile()
    report = compiled.memory_analysis()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    held = report.temp_size_in_bytes + report.argument_size_in_bytes - weights
    planned = dynamic._bytes(model, rules, 8, 64, 64, 1)
    assert 0.8 * planned < held < planned
    assert "scatter(" not in compiled.as_text()
