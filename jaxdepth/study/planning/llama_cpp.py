"""llama.cpp as a peer of `jaxdepth bench`: the same weights in GGUF files of some depths.

It is found where the package `xllamacpp` is installed, whose wheel holds llama.cpp's server; no
package of this project depends on it. llama.cpp has no way to stop at a layer, so a file is
truncated. Prompts are token ids, so the vocabulary in a file is only as long as it must be.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from jaxtyping import Int

from jaxdepth.errors import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights.export import model_tensor
from jaxdepth.weights.tensor_map import GGUF_NAMES, permute, tensor_map


def why_not(config: ModelConfig) -> str | None:
    """Why llama.cpp cannot be timed on a model here; None if it can."""
    if find_spec("xllamacpp") is None:
        return "pip install xllamacpp"
    plain = not (config.qkv_bias or config.qk_norm or config.rope_layers or config.rope.scaling)
    return None if plain and not config.sliding_window else "of Llama's plain form only"


def write_truncated(model: Mistral, depth: int, path: Path) -> None:
    """Write the first layers of a model of Llama's plain form as a GGUF file of float32.

    Args:
        model: the model.
        depth: how many layers.
        path: of the file.
    """
    c = replace(model.config, num_hidden_layers=depth)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(depth)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope.theta)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"<{token}>" for token in range(c.vocab_size)])
    writer.add_token_types([1] * c.vocab_size)  # text
    writer.add_token_merges(["< 0"])
    for tensor in tensor_map(c, GGUF_NAMES):
        array = np.array(model_tensor(model, tensor), np.float32)
        writer.add_tensor(tensor.source, permute(array, tensor.heads) if tensor.heads else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def servers(
    model: Mistral, depths: Sequence[int], prompts: int, length: int
) -> Iterator[dict[int, "LlamaCpp"]]:
    """By depth, llama.cpp with so many layers of a model, other arguments as of `LlamaCpp`.

    Their files, each as large as the weights in float32, are kept until the block ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        loaded = {}
        for depth in depths:
            path = Path(folder) / f"{depth}.gguf"
            write_truncated(model, depth, path)
            loaded[depth] = LlamaCpp(path, prompts, length)
        yield loaded


class LlamaCpp:
    """llama.cpp with a model of one depth, which answers prompts greedily, all at once."""

    def __init__(self, path: Path, prompts: int, length: int):
        """Load a file.

        Args:
            path: of the GGUF file.
            prompts: how many are answered at once.
            length: of a prompt with its answer, at most.
        """
        import xllamacpp  # optional

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel, params.n_ctx = prompts, prompts * length
        params.n_batch = params.n_ubatch = max(512, prompts * length)
        params.sampling.temp = 0.0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
        params.n_gpu_layers, params.warmup, params.verbosity = 0, True, -1
        self._server = xllamacpp.Server(params)

    def run(self, tokens_BS: Int[np.ndarray, "B S"], new_tokens: int) -> list[list[int]]:
        """The new tokens of every prompt."""
        with ThreadPoolExecutor(len(tokens_BS)) as pool:
            return list(pool.map(lambda prompt: self._answer(prompt, new_tokens), tokens_BS))

    def _answer(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        request: dict[str, Any] = {
            "prompt": [int(token) for token in prompt],
            "n_predict": new_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer = self._server.handle_completions(request)
        if "choices" not in answer:
            raise InputError(f"llama.cpp answers {answer}")
        return [int(token) for token in re.findall(r"<(\d+)>", answer["choices"][0]["text"])]
