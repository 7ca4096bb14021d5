"""The `config.json` of an exported folder: a dense text model of one family, as others read it.

Read by transformers 4 (`configuration_utils.py`: `dtype` wins over `torch_dtype`; RoPE in
`rope_theta` and `rope_scaling`) and 5 (`modeling_rope_utils.py`: both forms), by vLLM
(`model_executor/models/registry.py`) and llama.cpp (`conversion/base.py`): both look up
`architectures`, and vLLM knows a text model inside an image model only with its image part.
"""

from collections.abc import Mapping
from typing import Any

from jaxdepth.errors import InputError
from jaxdepth.model.config import ModelConfig, block_config

# model_type -> the class of transformers, by which vLLM and llama.cpp look a model up too.
ARCHITECTURES = {
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
_WITH_WINDOW = ("mistral", "ministral")  # an absent sliding_window is not "none" there
_ONLY_TRANSFORMERS_5 = ("ministral3",)  # keeps the form of RoPE that it has
_PER_LAYER = ("layer_types", "no_rope_layers")
_LENGTH = "original_max_position_embeddings"
_DROPPED = ("_name_or_path", "quantization_config", "compression_config", "vision_config")


def exported_config(
    raw: Mapping[str, Any], config: ModelConfig, dtype: str, layers: int
) -> dict[str, Any]:
    """The `config.json` of an exported model.

    Sizes whose default differs from tool to tool are written out. RoPE is written in the older
    form, which both versions of transformers read.

    Args:
        raw: the checkpoint's `config.json`.
        config: the shape of the model, an adapter's new tokens included.
        dtype: of the written weights.
        layers: how many are kept; lists that have an entry for each layer are cut to as many.

    Raises:
        InputError: transformers has no class for the family.
    """
    raw = block_config(raw)
    family = raw["model_type"]
    if family not in ARCHITECTURES:
        raise InputError(f"a model of the family {family!r} cannot be exported: convert it only")
    written = {k: v for k, v in raw.items() if k not in _DROPPED}
    written |= {
        "architectures": [ARCHITECTURES[family]],
        "vocab_size": config.vocab_size,
        "num_hidden_layers": layers,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if family in _WITH_WINDOW:
        written["sliding_window"] = config.sliding_window
    for name in _PER_LAYER:
        if isinstance(written.get(name), list):
            written[name] = written[name][:layers]
    if family in _ONLY_TRANSFORMERS_5:
        return written
    return _older_rope(written) | {"rope_theta": config.rope.theta}


def _older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """The config with `rope_scaling` in place of `rope_parameters`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    config = {k: v for k, v in config.items() if k not in ("rope_parameters", "rope_scaling")}
    if rope.get("partial_rotary_factor") is not None:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    rope = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return config
    if kind == "yarn" and rope.get(_LENGTH) is None:  # which llama.cpp needs to be stated
        rope[_LENGTH] = config["max_position_embeddings"]
    return config | {"rope_scaling": rope | {"rope_type": kind}}
