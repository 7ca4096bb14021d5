"""Mistral's own format, `params.json` beside `consolidated.safetensors`, as a source of weights.

Source: `args.py` of mistral-inference, `convert_ministral3_weights_to_hf.py` of transformers, and
`transformers_utils/configs/mistral.py` of vLLM.
"""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short  # values in a file may be long
from typing import Any

import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.files import read_json
from jaxdepth.model.config import MAX_LAYERS, ModelConfig
from jaxdepth.model.rope_config import number
from jaxdepth.weights.huggingface.shards import CONSOLIDATED, INDEX_NAME, PARAMS
from jaxdepth.weights.huggingface.source import SafetensorsSource
from jaxdepth.weights.tensor_map import MISTRAL_NAMES, MappedTensor, unpermute

# Mistral's name -> Hugging Face's
_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "tied_embeddings": "tie_word_embeddings",
}
_OPTIONAL = ("rope_theta", "tied_embeddings")
_READ = {"sliding_window", "yarn", "llama_4_scaling", "max_position_embeddings", "max_seq_len"}
_HARMLESS = {"max_batch_size", "dtype", "vision_encoder", "multimodal"}
_ONLY = {"model_type": "transformer", "activation": "silu", "causal": True, "use_biases": False}
_WHY_NOT = {
    "lora": "it keeps low-rank updates beside its weights",
    "moe": "it routes tokens to experts",
    "kv_lora_rank": "its keys and values are compressed (MLA)",
    "quantization": "its weights are quantised: convert the Hugging Face files of this model",
}
_IMAGE = ("vision_encoder.", "vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm.")
_DEFAULT_POSITIONS = 32768  # as transformers' converter


def is_mistral_format(folder: Path) -> bool:
    """Whether a folder holds a model in Mistral's own format, and not in Hugging Face's too."""
    if not (folder / PARAMS).is_file():
        return False
    names = [file.name for file in folder.glob("*.safetensors")]
    has_hf = (folder / INDEX_NAME).exists() or any(not n.startswith(CONSOLIDATED) for n in names)
    return not ((folder / "config.json").is_file() and has_hf)


class MistralSource(SafetensorsSource):
    """A folder in Mistral's own format; its attributes are those of every source."""

    tensor_names = MISTRAL_NAMES
    kind = "a folder in Mistral's own format"

    def read(self, tensor: MappedTensor) -> np.ndarray:
        """A tensor in the file's own dtype, the rows of q and k in Hugging Face's order.

        Raises:
            InputError: it has NaN or infinite values, or the file has been truncated.
        """
        array = super().read(tensor)
        if tensor.heads is None:
            return array
        return np.ascontiguousarray(unpermute(array, tensor.heads))

    def _read_config(self) -> dict[str, Any]:
        path = self.folder / PARAMS
        try:
            raw = params_config(read_json(path))
            ModelConfig.from_hf(raw)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        self.model_type = raw["model_type"]
        return raw

    def _find_files(self) -> list[Path]:
        files = sorted(self.folder.glob(f"{CONSOLIDATED}*.safetensors"))
        if not files:
            raise InputError(f"{self.folder} has {PARAMS} but no {CONSOLIDATED}*.safetensors")
        return files

    def _own_name(self, name: str) -> str | None:
        return None if name.startswith(_IMAGE) else name


def params_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """The Hugging Face config that a `params.json` describes.

    Raises:
        InputError: a key that is not implemented, or one without which the numbers are not known.
    """
    if not isinstance(params, Mapping):
        raise InputError(f"holds a {type(params).__name__}, expected an object")
    stated = {key: value for key, value in params.items() if value not in (None, {}, [])}
    for key, why in _WHY_NOT.items():
        if key in stated:
            raise InputError(f"not supported, {why} ({key} = {short(stated[key])})")
    known = {*_KEYS, *_READ, *_HARMLESS}
    unknown = [
        f"{short(key)} = {short(value)}"
        for key, value in stated.items()
        if key not in known and (key not in _ONLY or value != _ONLY[key])
    ]
    if unknown:
        raise InputError(f"{listed(unknown, len(unknown))} may change the numbers, not implemented")
    missing = [key for key in _KEYS if key not in stated and key not in _OPTIONAL]
    if missing:
        raise InputError(f"lacks {listed(missing)}: the file is incomplete")
    raw = {hf: stated[key] for key, hf in _KEYS.items() if key in stated}
    raw["max_position_embeddings"] = next(
        (stated[key] for key in ("max_position_embeddings", "max_seq_len") if key in stated),
        _DEFAULT_POSITIONS,
    )
    raw |= {"model_type": "mistral", "tie_word_embeddings": raw.get("tie_word_embeddings", False)}
    raw |= _window(stated, raw["num_hidden_layers"])
    if "rope_theta" not in raw and raw["sliding_window"] is None:
        raise InputError("rope_theta is missing, for which programs use 10,000 or 1,000,000")
    return raw | _rope(stated)


def _window(stated: Mapping[str, Any], layers: Any) -> dict[str, Any]:
    """The keys of the sliding window: one number, or a pattern that the layers repeat."""
    window = stated.get("sliding_window")
    if not isinstance(window, list):
        number = int(window) if isinstance(window, str) and window.isdecimal() else window
        return {"sliding_window": number}
    sizes = [size for size in window if size is not None]
    is_one = all(isinstance(size, int) and size == sizes[0] for size in sizes)
    if not isinstance(layers, int) or layers > MAX_LAYERS or not is_one or layers % len(window):
        raise InputError(f"sliding_window is {short(window)}, expected one size in {layers} layers")
    kinds = ["full_attention" if size is None else "sliding_attention" for size in window]
    return {
        "model_type": "ministral",
        "sliding_window": sizes[0] if sizes else None,
        "layer_types": kinds * (layers // len(window)),
    }


def _rope(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The `rope_parameters` of YaRN and of scaled queries; nothing if there are neither."""
    yarn = _part(stated, "yarn", ("factor", "original_max_position_embeddings", "beta", "alpha"))
    name = "original_max_position_embeddings"
    queries = _part(stated, "llama_4_scaling", (name, "beta"))
    rope: dict[str, Any] = {}
    if yarn:
        if "apply_scale" not in yarn:
            raise InputError("yarn lacks apply_scale, whose default differs between programs")
        if not isinstance(yarn["apply_scale"], bool):
            raise InputError(
                f"yarn.apply_scale is {short(yarn['apply_scale'])}, expected true or false"
            )
        rope = {"rope_type": "yarn", "factor": yarn["factor"], name: yarn[name]}
        rope |= {"beta_fast": yarn["beta"], "beta_slow": yarn["alpha"]}
        rope |= {} if yarn["apply_scale"] else {"attention_factor": 1.0}
    if queries:
        if rope.get(name, queries[name]) != queries[name]:
            raise InputError(f"yarn and llama_4_scaling have two values of {name}")
        rope |= {name: queries[name], "llama_4_scaling_beta": queries["beta"]}
    if not rope:
        return {}
    rope = {"rope_type": "default"} | rope
    return {"rope_parameters": rope} | ({"model_type": "ministral3"} if queries else {})


def _part(stated: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    part = stated.get(name, {})
    if not isinstance(part, Mapping):
        raise InputError(f"{name} is {short(part)}, expected an object")
    extra = sorted(set(part) - {*keys, *(["apply_scale"] if name == "yarn" else [])})
    missing = [key for key in keys if key not in part] if part else []
    if extra or missing:
        raise InputError(f"{name} has the keys {sorted(part)}, expected {', '.join(keys)}")
    for key in keys if part else ():
        number(f"{name}.{key}", part[key])  # null would become a default of Hugging Face's
    return part
