"""Random damage to folders with quantised weights."""

from mutants.folder import (
    config_key,
    gone,
    index_map,
    index_name,
    index_tensor,
    index_value,
    shard_gone,
    sidecar_bomb,
    without_index,
)
from mutants.safetensors import (
    SHARD_KINDS,
    TENSOR_KINDS,
    cut,
    flip,
    flip_number,
    join,
    pick,
    shard_names,
    split,
)
from mutants.settings import settings_damage

_ROLES = (
    "weight", "qweight", "qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv",
    "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx", "SCB", "weight_format",
    "weight.absmax", "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4",
    "bias", "input_scale", "weight_global_scale",
)  # fmt: skip


def role(files, rng):
    """A part of a weight is called by another part's name."""
    name = pick(rng, shard_names(files))
    header, numbers = split(files[name])
    tensors = sorted(n for n in header if "_proj." in n)
    old = pick(rng, tensors)
    new = old[: old.index("_proj.") + len("_proj.")] + pick(rng, _ROLES)
    return files | {name: join({new if n == old else n: v for n, v in header.items()}, numbers)}


_KINDS = (
    *SHARD_KINDS, *TENSOR_KINDS, *TENSOR_KINDS, role, role, *(flip_number,) * 8,
    flip, cut, gone, shard_gone,
    sidecar_bomb, index_name, index_value, index_map, index_tensor, without_index, config_key,
)  # fmt: skip


def kinds_of(settings_file=None):
    """The kinds of damage to a folder, whose settings may be in a file of their own."""
    own = settings_damage("config.json", "quantization_config")
    if settings_file is not None:
        own = settings_damage(settings_file)
    return (*_KINDS, *(own,) * 24)
