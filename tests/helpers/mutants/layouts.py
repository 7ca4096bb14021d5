"""Random damage to folders of other layouts: Mistral's own, image models, configs with YaRN."""

import json

from mutants.damage import pick
from mutants.folder import (
    config_key,
    config_sizes,
    gone,
    index_map,
    index_name,
    index_tensor,
    index_value,
    shard_gone,
    sidecar_bomb,
    tokenizer_value,
    without_index,
)
from mutants.safetensors import (
    SHARD_KINDS,
    cut,
    flip,
    join,
    more,
    noise,
    shard_names,
    split,
)
from mutants.settings import settings_damage

_NAMES = (
    lambda n: n.replace("language_model.", ""),
    lambda n: n.replace("language_model.model.", "model.language_model."),
    lambda n: n.replace("model.language_model.", "language_model.model."),
    lambda n: f"model.{n}",
    lambda n: f"vision_tower.{n}",
    lambda n: f"vision_encoder.{n}",
    lambda n: n.replace("layers.0.", "layers.1."),
    lambda n: n.replace("layers.1.", "layers.7."),
    lambda n: n.replace("wq", "wk"),
    lambda n: n.replace("weight", "bias"),
    lambda n: n.replace("weight", "weight_scale_inv"),
    lambda n: n.replace("weight", "qscale_weight"),
)


def layout_name(files, rng):
    """The name of one tensor, or of all in a file, is as another layout has it."""
    name, rename = pick(rng, shard_names(files)), pick(rng, _NAMES)
    header, numbers = split(files[name])
    tensors = sorted(set(header) - {"__metadata__"})
    changed = tensors if rng.random() < 0.3 else [pick(rng, tensors)]
    header = {rename(n) if n in changed else n: entry for n, entry in header.items()}
    return files | {name: join(header, numbers)}


def other_config(files, rng):
    """A config of Hugging Face's beside Mistral's, or none where there was one."""
    if "config.json" in files:
        return {name: content for name, content in files.items() if name != "config.json"}
    config = pick(rng, ({}, {"model_type": "mistral"}, [], {"text_config": {}}))
    return files | {"config.json": json.dumps(config).encode()}


_FILES = (flip, flip, cut, more, noise, gone, shard_gone, sidecar_bomb)
_INDEX = (index_name, index_value, index_map, index_tensor, without_index)
MISTRAL_KINDS = (
    *SHARD_KINDS, *_FILES, *(settings_damage("params.json"),) * 14, layout_name, layout_name,
    other_config, tokenizer_value,
)  # fmt: skip
IMAGE_KINDS = (
    *SHARD_KINDS, *_FILES, *_INDEX, *(settings_damage("config.json"),) * 4,
    *(settings_damage("config.json", "text_config"),) * 6, layout_name, layout_name, config_key,
    config_sizes, other_config, tokenizer_value,
)  # fmt: skip
YARN_KINDS = {
    key: (*(settings_damage("config.json", key),) * 6, settings_damage("config.json"), config_key)
    for key in ("rope_parameters", "rope_scaling")
}
