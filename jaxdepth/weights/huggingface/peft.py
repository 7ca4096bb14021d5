"""LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.files import check_finite, open_arrays
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import MATRICES, parameter_shapes
from jaxdepth.model.tuned import Form, Params
from jaxdepth.weights.huggingface.peft_config import PEFT_CONFIG, PeftConfig, read_peft_config
from jaxdepth.weights.tensor_map import HF_NAMES

PEFT_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."  # before the names of the base's modules
# Inputs and outputs of each matrix of a layer.
Shapes = Mapping[str, tuple[int, int]]


class Factors(NamedTuple):
    """Those of one module, inputs first, and the scale of their product."""

    a: np.ndarray
    b: np.ndarray
    scale: float


class PeftAdapter(NamedTuple):
    """A LoRA adapter as PEFT saved it."""

    form: Form  # which matrices of which layers it changes, and its rank and scale
    params: Params  # both factors of each matrix, stacked over the layers, inputs first
    version: str  # of PEFT


def read_peft(path: Path, config: ModelConfig) -> PeftAdapter:
    """Read a folder that PEFT's `save_pretrained` wrote.

    Modules may have ranks and scales of their own. The stacks have one of each: zeros fill the
    factors up to the largest rank, and layers in which a matrix is not adapted; scales that differ
    are multiplied into the second factors.

    Args:
        path: the folder.
        config: the shape of the base.

    Raises:
        InputError: it is damaged, for a model of another shape, or more than low-rank factors of
            the layers' matrices.
    """
    stacks = {name: parameter_shapes(config)[f"layers.{name}"] for name in MATRICES}
    shapes = {name: (inputs, outputs) for name, (_, inputs, outputs) in stacks.items()}
    settings, factors = read_factors(path, shapes, range(config.num_hidden_layers))
    layers = tuple(sorted({layer for by_layer in factors.values() for layer in by_layer}))
    all_factors = [one for by_layer in factors.values() for one in by_layer.values()]
    rank = max(one.a.shape[1] for one in all_factors)
    scales = {one.scale for one in all_factors}
    scale = scales.pop() if len(scales) == 1 else 1.0
    params = {}
    for name, by_layer in factors.items():
        inputs, outputs = shapes[name]
        stack_a = np.zeros((len(layers), inputs, rank), np.float32)
        stack_b = np.zeros((len(layers), rank, outputs), np.float32)
        for layer, one in by_layer.items():
            stack_a[layers.index(layer), :, : one.a.shape[1]] = one.a
            stack_b[layers.index(layer), : one.b.shape[0]] = one.b * np.float32(one.scale / scale)
        params[f"layers.{name}.a"] = jnp.asarray(stack_a)
        params[f"layers.{name}.b"] = jnp.asarray(stack_b)
    form = Form(layers, tuple(factors), rank, scale * rank)
    return PeftAdapter(form, params, settings.version)


def read_factors(
    path: Path, shapes: Shapes, layers: Iterable[int]
) -> tuple[PeftConfig, dict[str, dict[int, Factors]]]:
    """The config of a PEFT folder, and its factors by matrix and layer.

    Args:
        path: the folder.
        shapes: of the base's matrices.
        layers: that the base has.

    Raises:
        InputError: as `read_peft`.
    """
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (path / name).is_file():
            pickled = name == PEFT_WEIGHTS and (path / _PICKLE).is_file()
            hint = f" ({_PICKLE} can run code when loaded and is not read)" if pickled else ""
            raise InputError(f"{path} is not a PEFT adapter: it has no {name}{hint}")
    settings = read_peft_config(path)
    arrays = open_arrays(path / PEFT_WEIGHTS)[0]
    factors = _pop_factors(arrays, shapes, layers, settings)
    if arrays or not factors:
        problem = listed(sorted(arrays)) if arrays else "an adapter without lora_A and lora_B"
        raise InputError(
            f"{path}: cannot read {problem}: only lora_A and lora_B of the layers' matrices are "
            "read; merge the adapter into its base with PEFT and convert that"
        )
    return settings, factors


def _pop_factors(
    arrays: dict[str, np.ndarray], all_shapes: Shapes, layers: Iterable[int], settings: PeftConfig
) -> dict[str, dict[int, Factors]]:
    """Take the factors out of `arrays`: by matrix and layer.

    What is left in `arrays` afterwards belongs to no matrix of the model.
    """
    factors: dict[str, dict[int, Factors]] = {}
    for name, (inputs, outputs) in all_shapes.items():
        for layer in layers:
            module = HF_NAMES[name].format(i=layer).removesuffix(".weight")
            pair = [arrays.pop(f"{PREFIX}{module}.lora_{letter}.weight", None) for letter in "AB"]
            if pair[0] is None and pair[1] is None:
                continue
            rank = settings.rank_of(module)
            shapes = [None if array is None else array.shape for array in pair]
            if shapes != [(rank, inputs), (outputs, rank)]:
                raise InputError(
                    f"{settings.path}: lora_A and lora_B of {module} are {shapes[0]} and "
                    f"{shapes[1]}, expected {(rank, inputs)} and {(outputs, rank)}: the adapter is "
                    "damaged or for another model"
                )
            if not settings.targets(module):
                raise InputError(
                    f"{settings.path} has factors of {module}, which its config does not name to "
                    "PEFT (target_modules, exclude_modules, layers_to_transform): mend the config"
                )
            found = [array for array in pair if array is not None]
            for array in found:
                check_finite(array, module, settings.path / PEFT_WEIGHTS)
            a, b = (np.asarray(array, np.float32).T for array in found)
            one = Factors(a, b, settings.scale_of(module))
            if not _largest_product(one) < float(np.finfo(np.float32).max):
                raise InputError(
                    f"{settings.path}: lora_A times lora_B of {module} may be infinite in "
                    "float32: the file is damaged or the training diverged"
                )
            factors.setdefault(name, {})[layer] = one
    return factors


def _largest_product(factors: Factors) -> float:
    """A bound of the absolute values that a pair of factors adds to its matrix."""
    a, b = (float(np.abs(array).max()) for array in (factors.a, factors.b))
    return factors.a.shape[1] * a * b * max(factors.scale, 1.0)
