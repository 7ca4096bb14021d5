"""Every exit, on a grid of configs, against Hugging Face: golden files, and live with torch.

The grid runs the programs that users run; families run quick ones, and with -m slow those too.
"""

import re
from itertools import combinations, product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import AXES, QWEN2, covering_set, families, full_product, special_cases
from tiny import hf_tensors, leaves_of, model_of, prompts, raw_config

import jaxdepth
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral

TOLERANCE = 1e-5


def all_exits(raw: dict) -> np.ndarray:
    model = model_of(raw)
    exits = jnp.arange(1, model.depth + 1)
    vmapped = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0))
    return np.asarray(vmapped(model, *prompts(), exits))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", covering_set())
def test_grid(name, golden):
    assert_close(all_exits(covering_set()[name]), golden("tiny.npz")[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", full_product() | special_cases())
def test_all_as_users_run_them(name, golden):
    assert_close(all_exits((full_product() | special_cases())[name]), golden("tiny.npz")[name])


def assert_close_to_torch(raw: dict) -> None:
    from reference import hf_exit_logits, hf_model

    model = hf_model(raw, hf_tensors(ModelConfig.from_hf(raw)))
    assert_close(all_exits(raw), hf_exit_logits(model, *prompts(), range(1, 5)))


@pytest.mark.live
@pytest.mark.parametrize("name", covering_set())
def test_grid_live(name, torch):
    assert_close_to_torch(covering_set()[name])


def test_every_family_has_its_row():
    text = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert rows == [(name, raw["model_type"]) for name, raw in families().items()]


# Each must reach the logits, in every layer.
@pytest.mark.parametrize("name", ["q_bias", "k_bias", "v_bias"])
def test_a_bias_that_is_dropped_is_noticed(name):
    config = ModelConfig.from_hf(families()["qwen2"])
    leaves = leaves_of(config, hf_tensors(config))
    actual = []
    for layer in range(4):
        without = {n: array.copy() for n, array in leaves.items()}
        without[f"layers.{name}"][layer] = 0
        actual.append(jaxdepth.exit_logits(Mistral(config, without), *prompts(), 4))
    right = jaxdepth.exit_logits(Mistral(config, leaves), *prompts(), 4)
    assert all(np.abs(right - wrong).max() > 2 * TOLERANCE for wrong in actual)


def test_covering_set_covers_every_pair():
    chosen = [name.split("-") for name in covering_set()]
    assert len(chosen) <= 12
    for (i, first), (j, second) in combinations(enumerate(AXES.values()), 2):
        for pair in product(first, second):
            assert any((c[i], c[j]) == pair for c in chosen), pair


# From here on quick programs.


@pytest.mark.parametrize("name", special_cases())
def test_golden(name, golden, quick_programs):
    assert_close(all_exits(special_cases()[name]), golden("tiny.npz")[name])


def live_cases() -> list:
    """Special cases: one row of each family and two more now, the rest behind -m slow."""
    first_of = {raw["model_type"]: name for name, raw in reversed(families().items())}
    now = {*first_of.values(), "smollm3-window", "yarn-mscale"}
    slow = pytest.mark.slow
    return [name if name in now else pytest.param(name, marks=slow) for name in special_cases()]


@pytest.mark.live
@pytest.mark.parametrize("name", live_cases())
def test_live(name, torch, quick_programs):
    assert_close_to_torch(special_cases()[name])


# Mistakes that ports make. Each must move the logits far beyond the tolerance, else parity proves
# nothing about it.
@pytest.mark.parametrize(
    "right_and_wrong",
    [
        ({"rope_theta": 1e6}, {"rope_theta": 1e4}),
        ({"sliding_window": 16}, {"sliding_window": 17}),
        ({"sliding_window": 16}, {"sliding_window": 15}),
        ({"sliding_window": 16}, {"sliding_window": None}),
        (QWEN2 | {"use_sliding_window": True}, QWEN2),
        ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}),
    ],
    ids=str,
)
def test_the_grid_would_notice(right_and_wrong, quick_programs):
    right, wrong = (all_exits(raw_config(**changes)) for changes in right_and_wrong)
    assert np.abs(right - wrong).max() > 2 * TOLERANCE
