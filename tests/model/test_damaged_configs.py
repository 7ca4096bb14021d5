"""Configs of every family with values that nobody expects: read, or refused in one line."""

import copy

import numpy as np
import pytest
from folders.mistral import params_of, params_sizes, vision_encoder
from mutants.damage import VALUES, pick, put
from parity_grid import special_cases

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.rope import inverse_frequencies
from jaxdepth.weights.huggingface.mistral_params import params_config

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
SEED, MUTANTS, MAX_HEAD = 20261127, 30, 10_000
CASES = special_cases()


def outcome(read, raw):
    """Whether a mutant is refused; what is read has RoPE that can be computed."""
    try:
        config = ModelConfig.from_hf(read(raw))
    except InputError:
        return "refused"
    if config.head_dim <= MAX_HEAD:
        with np.errstate(all="ignore"):
            frequencies = inverse_frequencies(config.rope, config.head_dim)
        assert frequencies.shape == (config.head_dim // 2,)
    return "read"


def mutants(raw, name):
    rng = np.random.default_rng([SEED, *name.encode()])
    for _ in range(MUTANTS):
        damaged = copy.deepcopy(raw)
        for _ in range(int(rng.integers(1, 3))):
            put(damaged, rng, copy.deepcopy(pick(rng, VALUES)))
        yield damaged


@pytest.mark.parametrize("name", CASES)
def test_configs(name):
    outcomes = {outcome(lambda raw: raw, raw) for raw in mutants(CASES[name], name)}
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("name", ["mistral-7b-v0.1", "ministral-3"])
def test_params(name):
    raw = CASES[name]
    params = params_sizes(ModelConfig.from_hf(raw)) | params_of(raw)
    params |= {"vision_encoder": vision_encoder()}
    outcomes = {outcome(params_config, damaged) for damaged in mutants(params, name)}
    assert outcomes == {"read", "refused"}
