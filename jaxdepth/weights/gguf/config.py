"""From the metadata of a GGUF file to a Hugging Face `config.json`.

Keys: the `llama.*` section of the GGUF specification, whose names `qwen2.*` shares. An unknown key
of the architecture is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from jaxdepth.errors import InputError, listed

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
# Implied by others, and compared with them.
_CHECKED = ("vocab_size", "attention.value_length", "rope.dimension_count", "rope.scaling.type")
_TOKEN_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
_EMBED = "token_embd.weight"


def gguf_config(fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF model.

    Args:
        fields: the file's metadata.
        shapes: of its tensors, by name.

    Raises:
        InputError: an architecture other than llama and qwen2, or metadata that is not supported.
    """
    architecture = fields.get("general.architecture")
    if architecture not in ("llama", "qwen2"):
        raise InputError(
            f"unsupported architecture {architecture!r}; supported are 'llama' and 'qwen2'"
        )
    prefix = f"{architecture}."
    own = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    supported = {*_KEYS, *_CHECKED}
    if architecture == "qwen2":  # only some layers have the window; the file does not say which
        supported -= {"attention.sliding_window"}
    unknown = sorted(set(own) - supported)
    if unknown:
        raise InputError(f"metadata {prefix}{listed(unknown)} is not implemented")
    if "rope_freqs.weight" in shapes or own.get("rope.scaling.type", "none") != "none":
        raise InputError(
            "scaled RoPE in GGUF is not implemented: convert the safetensors of this model"
        )
    if _EMBED not in shapes:
        raise InputError(f"tensor {_EMBED} is missing: the file is incomplete")
    raw = {hf: own[key] for key, hf in _KEYS.items() if key in own}
    raw = {k: float(v) if isinstance(v, float) else v for k, v in raw.items()}
    raw |= {
        "model_type": "mistral" if raw.get("sliding_window") else architecture,
        "vocab_size": shapes[_EMBED][0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    _check_implied(raw, own, prefix)
    for name, hf in _TOKEN_IDS.items():
        if f"tokenizer.ggml.{name}_token_id" in fields:
            raw[hf] = int(fields[f"tokenizer.ggml.{name}_token_id"])
    return raw


def _check_implied(raw: Mapping[str, Any], own: Mapping[str, Any], prefix: str) -> None:
    if own.get("vocab_size", raw["vocab_size"]) != raw["vocab_size"]:
        raise InputError(
            f"metadata says vocab_size {own['vocab_size']}, {_EMBED} has {raw['vocab_size']} rows"
        )
    if raw.get("hidden_size") and raw.get("num_attention_heads"):
        head_dim = raw.get("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
        for key in ("rope.dimension_count", "attention.value_length"):
            if own.get(key, head_dim) != head_dim:
                raise InputError(
                    f"{prefix}{key} = {own[key]} differs from the head size {head_dim}"
                )
