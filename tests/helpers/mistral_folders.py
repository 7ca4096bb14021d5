"""Folders of tiny models in Mistral's own format, and of tiny image models."""

import json

import numpy as np
from parity_grid import VISION
from safetensors.numpy import save_file

from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.tensor_map import HF_NAMES, MISTRAL_NAMES, tensor_map

IMAGE_TENSORS = {"vision_tower.ln_pre.weight": (4,), "multi_modal_projector.norm.weight": (4,)}


def in_image_model(tensors: dict, layout: str) -> dict:
    """Tensors by the names of an image model, beside some of its own.

    Args:
        tensors: of the text model, by its Hugging Face names.
        layout: "transformers 4" or "transformers 5".
    """
    if layout == "transformers 4":
        renamed = {f"language_model.{name}": array for name, array in tensors.items()}
        prefix = ""
    else:
        renamed = {n.replace("model.", "model.language_model."): t for n, t in tensors.items()}
        prefix = "model."
    return renamed | {prefix + n: np.ones(s, np.float32) for n, s in IMAGE_TENSORS.items()}


def write_mistral_folder(folder, raw: dict, params: dict, tensors: dict):
    """A folder with `params.json` and `consolidated.safetensors`.

    Args:
        folder: to make.
        raw: the Hugging Face config of the same model.
        params: what params.json has beyond the sizes.
        tensors: by Hugging Face names.
    """
    config = ModelConfig.from_hf(raw)
    renamed = {}
    pairs = zip(tensor_map(config, HF_NAMES), tensor_map(config, MISTRAL_NAMES), strict=True)
    for hf, mistral in pairs:
        array = tensors[hf.source]
        if hf.heads:  # neighbours rotate together
            rows, columns = array.shape
            array = array.reshape(hf.heads, 2, rows // hf.heads // 2, columns).swapaxes(1, 2)
            array = np.ascontiguousarray(array.reshape(rows, columns))
        renamed[mistral.source] = array
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params_sizes(config) | params))
    save_file(renamed, folder / "consolidated.safetensors")
    return folder


def params_sizes(config: ModelConfig) -> dict:
    """The keys that every `params.json` has."""
    return {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "head_dim": config.head_dim,
        "hidden_dim": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
    }


def params_of(raw: dict) -> dict:
    """What `params.json` has beyond the sizes, for a config of Hugging Face's."""
    config, yarn = ModelConfig.from_hf(raw), raw.get("rope_parameters")
    params = {
        "rope_theta": config.rope.theta,
        "max_position_embeddings": config.max_position_embeddings,
        "sliding_window": config.sliding_window,
        "tied_embeddings": config.tie_word_embeddings,
    }
    if yarn is None:
        return params
    length = {"original_max_position_embeddings": yarn["original_max_position_embeddings"]}
    beta, alpha = yarn["beta_fast"], yarn["beta_slow"]
    scaled = {"factor": yarn["factor"], "beta": beta, "alpha": alpha, "apply_scale": False}
    queries = {"beta": yarn["llama_4_scaling_beta"]} | length
    return params | {"yarn": scaled | length, "llama_4_scaling": queries}


def vision_encoder() -> dict:
    """What `params.json` says of a tiny image model."""
    return {key: VISION[key] for key in ("hidden_size", "num_hidden_layers", "patch_size")}
