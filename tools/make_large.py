"""Makes a full-size Mistral-7B of random weights: 14.5 GB of bfloat16 in eight shards.

    python tools/make_large.py FOLDER

For `make test-large`: conversion and loading are measured on it.
"""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxdepth.model.config import ModelConfig
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.weights.shards import INDEX_NAME
from jaxdepth.weights.tensor_map import HF_NAMES, plan

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
    """Writes config, shards and index to `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pieces = plan(ModelConfig.from_hf(RAW), HF_NAMES)
    where = {}
    with progress_bar("making 7B random weights", "shards") as progress:
        for number, part in enumerate(np.array_split(np.arange(len(pieces)), SHARDS)):
            name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
            mine = [pieces[i] for i in part]
            save_file({p.source: _random(rng, p.shape) for p in mine}, folder / name)
            where |= {p.source: name for p in mine}
            progress(number + 1, SHARDS)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(RAW))


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs and digits, sizes from 0.008 to 0.03."""
    bits = np.frombuffer(rng.bytes(2 * int(np.prod(shape))), np.uint16)
    return ((bits & 0x80FF) | 0x3C00).view(ml_dtypes.bfloat16).reshape(shape)


if __name__ == "__main__":
    make_large(Path(sys.argv[1]))
