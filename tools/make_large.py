"""Make a full-size Mistral-7B of random weights: 14.5 GB of bfloat16 in eight shards.

    python tools/make_large.py FOLDER

`make test-large` measures conversion and loading on it.
"""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxdepth.model.config import ModelConfig
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.weights.huggingface.shards import INDEX_NAME
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map

RAW = {
    "model_type": "mistral",
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
SHARDS = 8


def make_large(folder: Path) -> None:
    """Write config, shards and index to `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tensors = tensor_map(ModelConfig.from_hf(RAW), HF_NAMES)
    shard_of = {}
    with progress_bar("making 7B random weights", "shards") as progress:
        for number, indices in enumerate(np.array_split(np.arange(len(tensors)), SHARDS)):
            name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
            shard = [tensors[i] for i in indices]
            save_file({t.source: _random(rng, t.shape) for t in shard}, folder / name)
            shard_of |= {t.source: name for t in shard}
            progress(number + 1, SHARDS)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    (folder / "config.json").write_text(json.dumps(RAW))


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random bfloat16 numbers: any sign and mantissa, absolute values from 0.008 to 0.03."""
    bits = np.frombuffer(rng.bytes(2 * int(np.prod(shape))), np.uint16)
    return ((bits & 0x80FF) | 0x3C00).view(ml_dtypes.bfloat16).reshape(shape)


if __name__ == "__main__":
    make_large(Path(sys.argv[1]))
