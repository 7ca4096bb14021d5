"""LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.files import open_arrays, read_json
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import MATRICES
from jaxdepth.model.tuned import Form, Params
from jaxdepth.weights.tensor_map import HF_NAMES

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys of a PEFT config that are read, or that do not change what the model computes. Any other key
# must have a value that turns it off.
_KNOWN_KEYS = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform",
    "base_model_name_or_path", "task_type", "inference_mode", "lora_dropout", "init_lora_weights",
    "revision", "auto_mapping", "peft_version", "layers_pattern", "exclude_modules",
    "ensure_weight_tying", "qalora_group_size", "eva_config", "corda_config", "loftq_config",
    "megatron_core",
}  # fmt: skip
_OFF: tuple[object, ...] = (None, False, {}, [], "", "none")


class PeftAdapter(NamedTuple):
    """A LoRA adapter as PEFT saved it."""

    form: Form  # which matrices of which layers it changes, and its rank and scale
    params: Params  # both factors of each matrix, stacked over the layers, inputs first
    version: str  # of PEFT


def read_peft(path: Path, config: ModelConfig) -> PeftAdapter:
    """Read a folder that PEFT's `save_pretrained` wrote.

    Args:
        path: the folder.
        config: the shape of the base.

    Raises:
        InputError: it is damaged, or something else than plain LoRA of the same layers for every
            matrix.
    """
    settings = _read_settings(path)
    arrays = open_arrays(path / PEFT_WEIGHTS)[0]
    factors = _pop_factors(arrays, config)
    layers = {tuple(sorted(factors_of_layer)) for factors_of_layer in factors.values()}
    if arrays or len(layers) != 1:
        problem = listed(arrays) if arrays else "other layers for some matrices than for others"
        raise InputError(f"{path}: cannot read {problem}")
    rank = int(_positive(path, settings, "r"))
    divisor = rank**0.5 if settings.get("use_rslora") else rank
    scale = _positive(path, settings, "lora_alpha") / divisor
    params = {}
    for name, factors_of_layer in factors.items():
        for factor, letter in (("a", "A"), ("b", "B")):
            stack = [factors_of_layer[i][letter].T for i in sorted(factors_of_layer)]
            if len({array.shape for array in stack}) != 1:
                raise InputError(f"{path}: the lora_{letter} of {name} differ in shape")
            params[f"layers.{name}.{factor}"] = jnp.stack(stack)
    form = Form(next(iter(layers)), tuple(factors), rank, scale * rank)
    return PeftAdapter(form, params, str(settings.get("peft_version")))


def _read_settings(path: Path) -> dict:
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (path / name).is_file():
            raise InputError(f"{path} is not a PEFT adapter: it has no {name}")
    settings = read_json(path / PEFT_CONFIG)
    if not isinstance(settings, dict):
        raise InputError(f"{path / PEFT_CONFIG} is not an object of JSON: fetch it again")
    unsupported = [k for k, v in settings.items() if k not in _KNOWN_KEYS and v not in _OFF]
    if settings.get("peft_type") != "LORA" or unsupported:
        names = listed(unsupported or ["type"])
        raise InputError(f"{path}: only plain LoRA is read, this one has {names}")
    return settings


def _pop_factors(
    arrays: dict[str, np.ndarray], config: ModelConfig
) -> dict[str, dict[int, dict[str, jax.Array]]]:
    """Take `lora_A` (rank, inputs) and `lora_B` (outputs, rank) out of `arrays`, by matrix.

    What is left in `arrays` afterwards belongs to no matrix of the model.
    """
    factors: dict[str, dict[int, dict[str, jax.Array]]] = {}
    for name in MATRICES:
        for layer in range(config.num_hidden_layers):
            prefix = "base_model.model." + HF_NAMES[name].format(i=layer).removesuffix(".weight")
            pair = {letter: arrays.pop(f"{prefix}.lora_{letter}.weight", None) for letter in "AB"}
            if all(array is not None for array in pair.values()):
                factors.setdefault(name, {})[layer] = {
                    letter: jnp.asarray(array, jnp.float32) for letter, array in pair.items()
                }
    return factors


def _positive(path: Path, settings: Mapping, name: str) -> int | float:
    value = settings.get(name)
    not_whole = name == "r" and not isinstance(value, int)
    if isinstance(value, bool) or not isinstance(value, int | float) or not_whole:
        raise InputError(f"{path}: {name} is {value!r}, expected a number")
    if not 0 < value < 1e9:
        raise InputError(f"{path}: {name} is {value!r}, expected a positive number")
    return value
