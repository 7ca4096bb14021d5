"""PEFT adapters: every field of a config is applied, without effect, or refused by name."""

import json
from dataclasses import fields

import numpy as np
import pytest
from folders.peft import CONFIG, SHAPES, deltas_of, module_of, write_adapter
from safetensors.numpy import load_file, save_file

from jaxdepth import InputError
from jaxdepth.weights.adapter import read_adapter
from jaxdepth.weights.huggingface import peft_config
from jaxdepth.weights.huggingface.peft import read_peft

PLACES = [("q", 1), ("q", 2), ("v", 1), ("v", 2)]


def assert_deltas(folder, expected):
    """The adapter adds these deltas, and nothing anywhere else."""
    deltas = deltas_of(read_adapter(str(folder), CONFIG))
    for place, delta in deltas.items():
        wanted = expected.get(place, np.zeros(SHAPES[place[0]]))
        np.testing.assert_allclose(delta, wanted, atol=1e-6, err_msg=str(place))
    assert set(expected) <= set(deltas)


def products(factors, scale):
    return {place: scale * b @ a for place, (b, a) in factors.items()}


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5), ({"lora_alpha": 0.5}, 0.25)],
)
def test_the_scale(tmp_path, settings, scale):
    factors = write_adapter(tmp_path / "a", PLACES, **settings)
    assert_deltas(tmp_path / "a", products(factors, scale))


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scales_of_their_own(tmp_path, rslora):
    """EVA writes such patterns, by full names; people write short ones and expressions."""
    ranks = {("q", 1): 3, ("v", 2): 1}
    patterns = {
        "rank_pattern": {"model.layers.1.self_attn.q_proj": 3, r"layers\.2\..*v_proj": 1, "zz": 9},
        "alpha_pattern": {"v_proj": 6, "^model.layers.2.self_attn.q_proj": 5, "q": 100},
    }
    factors = write_adapter(tmp_path / "a", PLACES, ranks, use_rslora=rslora, **patterns)
    alphas = {("q", 1): 8, ("q", 2): 5, ("v", 1): 6, ("v", 2): 6}
    expected = {}
    for place, (b, a) in factors.items():
        rank = ranks.get(place, 2)
        expected[place] = alphas[place] / (rank**0.5 if rslora else rank) * b @ a
    assert_deltas(tmp_path / "a", expected)


def test_other_layers_for_some_matrices(tmp_path):
    places = [("q", 1), ("q", 2), ("down", 0), ("down", 3)]
    factors = write_adapter(tmp_path / "a", places, target_modules=".*")
    assert_deltas(tmp_path / "a", products(factors, 4.0))


Q1 = module_of("q", 1)
TARGETS = [
    ({"target_modules": ["q_proj", "v_proj"]}, True),
    ({"target_modules": [Q1, module_of("q", 2), "v_proj"]}, True),
    ({"target_modules": "all-linear"}, True),
    ({"target_modules": None}, True),  # q_proj and v_proj, as PEFT does for these families
    ({"target_modules": r".*self_attn\.(q|v)_proj"}, True),
    ({"exclude_modules": ["k_proj", module_of("q", 0)]}, True),
    ({"exclude_modules": r".*layers\.0\..*"}, True),
    ({"layers_to_transform": [1, 2], "layers_pattern": "layers"}, True),
    ({"layers_to_transform": [1, 2], "layers_pattern": ["blocks", "layers"]}, True),
    ({"layers_to_transform": [0, 1, 2]}, True),
    ({"target_modules": ["q_proj"]}, False),
    ({"target_modules": ["proj"]}, False),  # whole names
    ({"target_modules": r"self_attn\.(q|v)_proj"}, False),  # matched from the start
    ({"exclude_modules": ["v_proj"]}, False),
    ({"exclude_modules": r".*layers\.2\..*"}, False),
    ({"layers_to_transform": 1}, False),
    ({"layers_to_transform": [1, 2], "layers_pattern": ["blocks"]}, False),
]


@pytest.mark.parametrize(("settings", "fits"), TARGETS, ids=str)
def test_modules_that_the_config_does_not_name(tmp_path, settings, fits):
    """PEFT ignores their factors."""
    factors = write_adapter(tmp_path / "a", PLACES, **settings)
    if fits:
        assert_deltas(tmp_path / "a", products(factors, 4.0))
    else:
        with pytest.raises(InputError, match="does not name to PEFT"):
            read_peft(tmp_path / "a", CONFIG)


@pytest.mark.parametrize(
    "settings",
    [
        *({"init_lora_weights": v} for v in (True, False, "gaussian", "eva", "orthogonal", "mica")),
        {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva"},
        {"fan_in_fan_out": True},  # PEFT warns, and takes it back for linear layers
        {"bias": "all"},  # this model has no biases that could have been trained
        {"loftq_config": {"loftq_bits": 4}},  # ignored with another initialisation
        {"ensure_weight_tying": True, "qalora_group_size": 32, "inference_mode": True},
        {"lora_dropout": 0.5, "task_type": None, "modules_to_save": None},
        {"auto_mapping": {"base_model_class": "MistralForCausalLM", "unsloth_fixed": True}},
        {"a_field_of_later": None, "another": False, "third": {}},
    ],
    ids=str,
)
def test_fields_without_effect(tmp_path, settings):
    factors = write_adapter(tmp_path / "a", PLACES, **settings)
    assert_deltas(tmp_path / "a", products(factors, 4.0))


@pytest.mark.parametrize(
    "start",
    ["pissa", "pissa_niter_16", "PiSSA", "olora", "OLoRA", "corda", "loftq", "lora_ga"],
)
def test_initialisations_that_change_the_base(tmp_path, start):
    write_adapter(tmp_path / "a", PLACES, init_lora_weights=start)
    says = f"init_lora_weights '{start}'.*path_initial_model_for_weight_conversion"
    with pytest.raises(InputError, match=says):
        read_peft(tmp_path / "a", CONFIG)


REFUSED = {
    "use_dora": True,
    "modules_to_save": ["lm_head"],
    "lora_bias": True,
    "layer_replication": [[0, 4], [2, 4]],
    "trainable_token_indices": [1],
    "target_parameters": ["mlp.weight"],
    "megatron_config": {"a": 1},
    "use_qalora": True,
    "alora_invocation_tokens": [1, 2],
    "monteclora_config": {"num_samples": 2},
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 1},
    "kasa_config": {"beta": 0.1},
    "velora_config": {"num_groups": 64},
    "enable_lora": [True, False],
    "a_field_of_later": 1,
    "task_type": "SEQ_CLS",
    "peft_type": "ADALORA",
    "init_lora_weights": "something",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(tmp_path, name):
    write_adapter(tmp_path / "a", PLACES, **{name: REFUSED[name]})
    with pytest.raises(InputError, match=rf"{name}.*merge.* with PEFT"):
        read_peft(tmp_path / "a", CONFIG)


def test_all_at_once(tmp_path):
    write_adapter(tmp_path / "a", PLACES, use_dora=True, lora_bias=True, layer_replication=[[0, 1]])
    with pytest.raises(InputError, match="use_dora, lora_bias, layer_replication"):
        read_peft(tmp_path / "a", CONFIG)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 2.0}, "r is 2.0"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": -1}, "positive"),
        ({"rank_pattern": [1]}, "rank_pattern is"),
        ({"rank_pattern": {"q_proj": 3}}, r"are \(2, 64\) and \(64, 2\), expected \(3, 64\)"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern q_proj is 'x'"),
        ({"alpha_pattern": {"(": 1}}, "no regular expression"),
        ({"target_modules": "(x+x+)+y|.*("}, "no regular expression"),
        ({"target_modules": [1]}, "target_modules is"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform is"),
        ({"layers_pattern": 5}, "layers_pattern is"),
        ({"target_modules": r"((\w|\.|[a-z])+)+[0-9]"}, "too long to match"),
    ],
    ids=str,
)
def test_values_that_make_no_sense(tmp_path, settings, says):
    write_adapter(tmp_path / "a", PLACES, **settings)
    with pytest.raises(InputError, match=says):
        read_peft(tmp_path / "a", CONFIG)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"base_model.model.lm_head.weight": np.zeros((96, 64))}, "cannot read .*lm_head.weight"),
        ({f"base_model.model.{Q1}.lora_B.bias": np.zeros(64)}, "cannot read .*lora_B.bias"),
        ({f"base_model.model.{Q1}.lora_magnitude_vector": np.zeros(64)}, "magnitude_vector"),
        ({f"base_model.model.{module_of('q', 3)}.lora_A.weight": np.zeros((2, 64))}, "and None"),
        ({f"base_model.model.{module_of('q', 9)}.lora_A.weight": np.zeros((2, 64))}, "cannot read"),
    ],
)
def test_arrays_that_belong_to_no_pair(tmp_path, extra, says):
    write_adapter(tmp_path / "a", PLACES, extra=extra)
    with pytest.raises(InputError, match=says):
        read_peft(tmp_path / "a", CONFIG)


@pytest.mark.parametrize("settings", [{}, {"lora_alpha": 1e-8}])
def test_factors_whose_product_is_infinite(tmp_path, settings):
    """Each is finite, as after damage to an exponent."""
    write_adapter(tmp_path / "a", PLACES, **settings)
    file = tmp_path / "a/adapter_model.safetensors"
    arrays = load_file(file)
    for letter in "AB":
        arrays[f"base_model.model.{Q1}.lora_{letter}.weight"][0, 0] = 1e30
    save_file(arrays, file)
    with pytest.raises(InputError, match=f"lora_A times lora_B of {Q1} may be infinite"):
        read_peft(tmp_path / "a", CONFIG)


def test_a_folder_without_factors(tmp_path):
    write_adapter(tmp_path / "a", [])
    with pytest.raises(InputError, match="without lora_A"):
        read_peft(tmp_path / "a", CONFIG)


def test_every_field_of_peft_is_decided():
    """No field is both, and PEFT has none that this test does not name; checked where it is."""
    decided = peft_config._APPLIED | peft_config._NO_EFFECT
    assert not peft_config._APPLIED & peft_config._NO_EFFECT
    assert not decided & (set(REFUSED) - {"task_type", "peft_type", "init_lora_weights"})
    peft = pytest.importorskip("peft")
    names = {field.name for field in fields(peft.LoraConfig)}
    assert names <= decided | set(REFUSED), "a new field of PEFT: read what it does, and decide"
    assert json.dumps(peft.LoraConfig().to_dict(), default=list)
