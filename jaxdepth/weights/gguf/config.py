"""From the metadata of a GGUF file to a Hugging Face `config.json`.

Keys: the `llama.*` section of the GGUF specification, whose names `qwen2.*` shares. An unknown key
of the architecture is refused by name, unless its value is one that changes nothing.
"""

import math
from collections.abc import Mapping
from reprlib import repr as short  # values in a file may be long
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdepth.errors import InputError, listed
from jaxdepth.weights.gguf.rope import (
    DIVISORS,
    ROPE_KEYS,
    divisors_scaling,
    read_number,
    rope_scaling,
)
from jaxdepth.weights.gguf.vocabulary import special_id

# The architectures that are read, and whether the rows of their q and k are interleaved. Names are
# those of Hugging Face's families, but that `llama` and `mistral3` have Mistral's models too.
ARCHITECTURES = {
    "llama": True,
    "mistral3": True,
    "qwen2": False,
    "qwen3": False,
    "smollm3": True,  # without RoPE in every fourth layer, as absent keys mean to transformers
}
_TEMPERATURE = "attention.temperature_scale"  # of queries by their position, in Ministral 3
# GGUF's name -> Hugging Face's
_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}
# Without these llama.cpp reads no file; a default of Hugging Face's would be a guess.
_REQUIRED = ("context_length", "attention.layer_norm_rms_epsilon")
# Implied by others, and compared with them.
_CHECKED = ("vocab_size", "attention.value_length", "rope.dimension_count")
# Keys that change nothing at these values. llama.cpp's own writer (`src/llama-model-saver.cpp`)
# names every setting that any architecture has, at the default that switches it off.
_NEUTRAL: dict[str, tuple] = {
    **dict.fromkeys(
        """
        attention.clamp_kqv attention.kv_lora_rank attention.max_alibi_bias attention.q_lora_rank
        attention.relative_buckets_count attention.scale attention.sliding_window
        attention.temperature_length attention.temperature_scale
        expert_count expert_feed_forward_length expert_gating_func expert_group_count
        expert_group_used_count expert_shared_count expert_shared_feed_forward_length
        expert_used_count expert_weights_scale leading_dense_block_count moe_every_n_layers
        nextn_predict_layers rescale_every_n_layers ssm.conv_kernel ssm.group_count ssm.inner_size
        ssm.state_size ssm.time_step_rank time_decay_extra_dim time_mix_extra_dim wkv.head_size
        """.split(),
        (0,),
    ),
    **dict.fromkeys(
        "expert_weights_norm ssm.dt_b_c_rms swin_norm use_parallel_residual".split(), (False,)
    ),
    "attention.causal": (True,),
    # 0 is not set, 1 scales nothing.
    **dict.fromkeys(("embedding_scale", "logit_scale", "residual_scale"), (0, 1)),
    # llama.cpp's defaults, which it reads for Gemma 2 and Grok alone.
    "attn_logit_softcapping": (0, 50),
    "final_logit_softcapping": (0, 30),
    "router_logit_softcapping": (0, 30),
    "tensor_data_layout": ("Meta AI original pth",),  # q and k permuted, as in every file
}
# Of embedding models, of encoders with decoders, and of norms that subtract the mean.
_HARMLESS = ("pooling_type", "decoder_start_token_id", "attention.layer_norm_epsilon")
_TOKEN_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
_EMBED = "token_embd.weight"


def gguf_config(
    fields: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    rope_divisors: Float[np.ndarray, " pairs"] | None = None,
) -> dict[str, Any]:
    """The Hugging Face config of a GGUF model.

    Args:
        fields: the file's metadata.
        shapes: of its tensors, by name.
        rope_divisors: `rope_freqs.weight`, if the file has it.

    Raises:
        InputError: an architecture or metadata that is not supported.
    """
    architecture = fields.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise InputError(
            f"unsupported architecture {short(architecture)}; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    prefix = f"{architecture}."
    own = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    own = {k: v for k, v in own.items() if not _is_neutral(k, v)}
    supported = {*_KEYS, *_CHECKED, *ROPE_KEYS}
    if architecture != "llama":  # only some layers have the window; the file does not say which
        supported -= {"attention.sliding_window"}
    if architecture == "mistral3":
        supported |= {_TEMPERATURE}
    unknown = [f"{prefix}{k} = {short(own[k])}" for k in sorted(set(own) - supported)]
    if unknown:
        raise InputError(
            f"metadata {listed(unknown)} may change the numbers and is not implemented: convert "
            "the safetensors of this model"
        )
    if _EMBED not in shapes:
        raise InputError(f"tensor {_EMBED} is missing: the file is incomplete")
    raw: dict[str, Any] = {
        hf: _number(prefix + key, own[key]) for key, hf in _KEYS.items() if key in own
    }
    if "num_attention_heads" in raw:  # what absent keys mean to llama.cpp, not to transformers
        raw.setdefault("num_key_value_heads", raw["num_attention_heads"])
    raw.setdefault("rope_theta", 10000.0)
    raw |= {
        "model_type": _family(architecture, own),
        "vocab_size": shapes[_EMBED][0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if raw["model_type"] == "mistral":
        raw.setdefault("sliding_window", None)  # absent, it would be what transformers assumes
    _check_implied(raw, own, prefix)
    if architecture not in ("llama", "qwen2") and _head_dim(raw):
        raw["head_dim"] = _head_dim(raw)
    scaling = _scaling(raw, own, rope_divisors)
    if scaling is not None:
        raw["rope_scaling"] = scaling
    ids = {hf: special_id(fields, name) for name, hf in _TOKEN_IDS.items()}
    missing = [prefix + key for key in _REQUIRED if key not in own]
    if missing:
        raise InputError(f"metadata {listed(missing)} is missing: fetch the file again")
    return raw | {hf: token_id for hf, token_id in ids.items() if token_id is not None}


def _family(architecture: str, own: Mapping[str, Any]) -> str:
    """The `model_type` of a Hugging Face config."""
    if architecture == "mistral3":  # the text models of Mistral Small 3.1 and later, Ministral 3
        return "ministral3" if own.get(_TEMPERATURE) else "mistral"
    return "mistral" if own.get("attention.sliding_window") else architecture


def _number(key: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"metadata {key} is {short(value)}, expected a number")
    return value


def _is_neutral(key: str, value: Any) -> bool:
    # Python's True equals 1, so that a type is compared too.
    return key in _HARMLESS or any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        for neutral in _NEUTRAL.get(key, ())
    )


def _scaling(raw: Mapping[str, Any], own: Mapping[str, Any], divisors) -> dict[str, Any] | None:
    scaling = rope_scaling(own)
    if own.get(_TEMPERATURE):
        if scaling is None or scaling["rope_type"] != "yarn":
            raise InputError(
                f"{_TEMPERATURE} = {short(own[_TEMPERATURE])} without YaRN is not implemented: "
                "convert the safetensors of this model"
            )
        scaling["llama_4_scaling_beta"] = read_number(own, _TEMPERATURE)
    if divisors is None:
        return scaling
    if scaling is not None:
        raise InputError(
            f"both {DIVISORS} and rope.scaling.type = {scaling['rope_type']!r} scale RoPE, which "
            "is not implemented: convert the safetensors of this model"
        )
    pairs, theta = _head_dim(raw) // 2, raw["rope_theta"]
    if not pairs or not 0 < theta < math.inf:
        return None  # refused when the config is read
    if divisors.shape != (pairs,):
        raise InputError(
            f"{DIVISORS} has the shape {divisors.shape}, expected ({pairs},), half the head size"
        )
    return divisors_scaling(divisors, theta)


def _head_dim(raw: Mapping[str, Any]) -> int:
    """The head size; 0 if the metadata lacks what it follows from, which is refused later."""
    heads = raw.get("num_attention_heads") or 0
    return raw.get("head_dim") or (raw.get("hidden_size", 0) // heads if heads > 0 else 0)


def _check_implied(raw: Mapping[str, Any], own: Mapping[str, Any], prefix: str) -> None:
    if own.get("vocab_size", raw["vocab_size"]) != raw["vocab_size"]:
        raise InputError(
            f"metadata says vocab_size {short(own['vocab_size'])}, {_EMBED} has "
            f"{raw['vocab_size']} rows"
        )
    head_dim = _head_dim(raw)
    for key in ("rope.dimension_count", "attention.value_length"):
        if head_dim and own.get(key, head_dim) != head_dim:
            raise InputError(
                f"{prefix}{key} = {short(own[key])} differs from the head size {head_dim}"
            )
