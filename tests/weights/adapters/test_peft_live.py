"""Adapters that PEFT itself makes: what it merges, and what is read from the files."""

import json

import numpy as np
import pytest
from folders.peft import CONFIG, RAW
from tiny import hf_tensors, write_folder

from jaxdepth import InputError
from jaxdepth.weights.huggingface.peft import read_peft
from jaxdepth.weights.tensor_map import HF_NAMES

pytestmark = pytest.mark.live
TENSORS = hf_tensors(CONFIG)


@pytest.fixture
def peft(torch):
    return pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("base"), RAW, TENSORS)


def fresh(base_folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)


def save(peft, base_folder, folder, trained=True, **settings):
    """An adapter that PEFT made, with every factor moved as if it had been trained."""
    import torch

    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **({"r": 2, "lora_alpha": 8} | settings))
    model = peft.get_peft_model(fresh(base_folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if trained and "lora_" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model, folder


def differences(peft, base_folder, folder):
    """The largest difference of a merged matrix, and the largest change that PEFT makes."""
    loaded = peft.PeftModel.from_pretrained(fresh(base_folder), folder)
    merged = {k: v.numpy() for k, v in loaded.merge_and_unload().state_dict().items()}
    form, params, _ = read_peft(folder, CONFIG)
    ours = {name: array.copy() for name, array in TENSORS.items()}
    for name in form.leaves:
        for i, layer in enumerate(form.layers):
            a, b = (np.asarray(params[f"layers.{name}.{letter}"][i]) for letter in "ab")
            ours[HF_NAMES[name].format(i=layer)] += form.scale * (a @ b).T
    changes = [np.abs(merged[name] - array).max() for name, array in TENSORS.items()]
    return max(np.abs(merged[name] - array).max() for name, array in ours.items()), max(changes)


QV = ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": QV},
        {"target_modules": "all-linear", "use_rslora": True, "bias": "all"},
        {"target_modules": None, "init_lora_weights": "gaussian"},
        {"target_modules": QV, "init_lora_weights": "orthogonal", "fan_in_fan_out": True},
        {"target_modules": QV, "init_lora_weights": "mica"},
        {"target_modules": QV, "exclude_modules": ["0.self_attn.q_proj"]},
        {"target_modules": QV, "init_lora_weights": False},
        {"target_modules": QV, "layers_to_transform": [1, 3], "layers_pattern": "layers"},
        {"target_modules": r".*\.(1|2)\.self_attn\.q_proj|.*\.3\.mlp\.(up|down)_proj"},
        {
            "target_modules": QV,
            "rank_pattern": {"model.layers.0.self_attn.q_proj": 3, r"layers\.[12]\..*": 1},
            "alpha_pattern": {"v_proj": 3, "^model.layers.0.self_attn.q_proj": 5},
            "use_rslora": True,
        },
    ],
    ids=str,
)  # fmt: skip
def test_as_peft_merges_it(peft, base_folder, tmp_path, settings):
    model, folder = save(peft, base_folder, tmp_path / "a", **settings)
    model.save_pretrained(folder)
    difference, change = differences(peft, base_folder, folder)
    assert difference < 1e-5
    assert change > 0.01


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_changed_bases_are_refused_until_they_are_saved_as_peft_says(
    peft, base_folder, tmp_path, start
):
    settings = {"init_lora_weights": start, "target_modules": QV, "lora_alpha": 3}
    before, _ = save(peft, base_folder, tmp_path, trained=False, **settings)
    before.peft_config["default"].init_lora_weights = True  # as PEFT's guide has it
    before.save_pretrained(tmp_path / "initial")
    model, _ = save(peft, base_folder, tmp_path, **settings)
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match=f"init_lora_weights '{start}'"):
        read_peft(tmp_path / "plain", CONFIG)
    model.save_pretrained(
        tmp_path / "again", path_initial_model_for_weight_conversion=tmp_path / "initial"
    )
    saved = json.loads((tmp_path / "again/adapter_config.json").read_text())
    assert saved["r"] == 4
    difference, change = differences(peft, base_folder, tmp_path / "again")
    assert difference < 1e-5
    assert change > 0.01


def test_factors_that_peft_ignores(peft, base_folder, tmp_path):
    """They are refused: PEFT itself loads such a file as if they were not there."""
    model, folder = save(peft, base_folder, tmp_path / "a", target_modules=QV)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    loaded = peft.PeftModel.from_pretrained(fresh(base_folder), folder)
    v = HF_NAMES["v"].format(i=0)
    merged = loaded.merge_and_unload().state_dict()[v].numpy()
    np.testing.assert_array_equal(merged, TENSORS[v])
    with pytest.raises(InputError, match="v_proj, which its config does not name"):
        read_peft(folder, CONFIG)
