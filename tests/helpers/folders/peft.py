"""PEFT adapter folders for tests, written from PEFT's description of its format."""

import json

import numpy as np
from safetensors.numpy import save_file
from tiny import raw_config

from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.tensor_map import HF_NAMES

RAW = raw_config()
CONFIG = ModelConfig.from_hf(RAW)
SHAPES = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "down": (64, 112)}  # outputs, inputs


def module_of(name, layer):
    """The name of a matrix's module inside the model."""
    return HF_NAMES[name].format(i=layer).removesuffix(".weight")


def write_adapter(folder, places, ranks=None, rank=2, extra=None, **settings):
    """Write an adapter of random factors.

    Args:
        folder: to write to.
        places: (matrix, layer) of each pair of factors.
        ranks: of those whose rank is not `rank`, by place.
        rank: of the others, and `r` of the config.
        extra: further arrays by name.
        settings: of the config, beside what all configs have.

    Returns:
        (B, A) of each place, as PEFT stores them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, factors, arrays = np.random.default_rng(0), {}, dict(extra or {})
    for name, layer in places:
        outputs, inputs = SHAPES[name]
        own_rank = (ranks or {}).get((name, layer), rank)
        a, b = (
            (rng.standard_normal(shape) * 0.1).astype(np.float32)
            for shape in ((own_rank, inputs), (outputs, own_rank))
        )
        factors[name, layer] = b, a
        stem = f"base_model.model.{module_of(name, layer)}"
        arrays |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    base = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 8}
    base |= {"target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(base | settings))
    save_file(arrays, folder / "adapter_model.safetensors")
    return factors


def deltas_of(adapter):
    """What an adapter adds to each matrix, by matrix and layer: outputs first, as PEFT's."""
    form, params = adapter.form, adapter.params
    return {
        (name, layer): form.scale
        * (np.asarray(params[f"layers.{name}.a"][i]) @ np.asarray(params[f"layers.{name}.b"][i])).T
        for name in form.leaves
        for i, layer in enumerate(form.layers)
    }
