"""Tensors of a file that hold several matrices, one below the other.

Source: transformers' `modeling_phi3.py`.
"""

from typing import NamedTuple

from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import LAYER_PARAMETERS, axis_sizes
from jaxdepth.weights.tensor_map import HF_NAMES

_FUSED = {"self_attn.qkv_proj.weight": ("q", "k", "v"), "mlp.gate_up_proj.weight": ("gate", "up")}


class Part(NamedTuple):
    """Some rows of a tensor of a file, which are a tensor of the model."""

    name: str
    first_row: int
    shape: tuple[int, ...]


def fused_parts(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[Part]:
    """The matrices in a tensor; none if it is not one of several that have its size together."""
    prefix = next((name.removesuffix(end) for end in _FUSED if name.endswith(end)), None)
    if prefix is None or len(shape) != 2:
        return []
    sizes, first, parts = axis_sizes(config), 0, []
    for parameter in _FUSED[name.removeprefix(prefix)]:
        rows = sizes[LAYER_PARAMETERS[parameter][-1]]
        end = HF_NAMES[parameter].partition("{i}.")[2]
        parts.append(Part(prefix + end, first, (rows, shape[1])))
        first += rows
    return parts if first == shape[0] else []
