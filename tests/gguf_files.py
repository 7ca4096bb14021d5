"""GGUF files of tiny models, written by the `gguf` package as llama.cpp's converter writes them."""

import numpy as np

from jaxdepth.config import ModelConfig
from jaxdepth.weights.plan import GGUF_NAMES, HF_NAMES, plan


def write_gguf(path, raw, tensors, types=None, parts_of=0, order=1, **metadata):
    """Writes the model; `tensors` have their Hugging Face names.

    Args:
        path: of the file, or of parts: then they lie beside it, and are given back in order.
        raw: the `config.json`; a qwen2 keeps its q and k rows, others' are permuted.
        tensors: float32, or bytes of blocks where `types` has a type.
        types: by Hugging Face name, of tensors that are already quantised.
        parts_of: how many tensors go into each part; 0 writes one file.
        order: -1 writes the tensors from the last to the first.
        **metadata: strings and booleans besides, with `__` for a dot.
    """
    from gguf import GGUFWriter

    config, types = ModelConfig.from_hf(raw), types or {}
    architecture = "qwen2" if raw["model_type"] == "qwen2" else "llama"
    writer = GGUFWriter(path, architecture, split_max_tensors=parts_of)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    for key, value in metadata.items():
        add = writer.add_bool if isinstance(value, bool) else writer.add_string
        add(key.replace("__", "."), value)
    both = list(zip(plan(config, HF_NAMES), plan(config, GGUF_NAMES), strict=True))
    for hf, gguf in both[::order]:
        array = tensors[hf.source]
        if hf.heads and architecture == "llama":
            rows, columns = array.shape
            array = array.reshape(hf.heads, 2, rows // hf.heads // 2, columns).swapaxes(1, 2)
            array = np.ascontiguousarray(array).reshape(rows, columns)
        writer.add_tensor(gguf.source, array, raw_dtype=types.get(hf.source))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not parts_of:
        return path
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))
