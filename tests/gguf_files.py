"""GGUF files of tiny models, written by the `gguf` package as llama.cpp's converter writes them."""

import numpy as np
from gguf import GGUFWriter

from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.tensor_map import GGUF_NAMES, HF_NAMES, plan

_ADD = {
    bool: GGUFWriter.add_bool,
    str: GGUFWriter.add_string,
    int: GGUFWriter.add_uint32,
    list: GGUFWriter.add_array,
}


def write_gguf(path, raw, tensors, types=None, parts_of=0, order=1, architecture=None, **metadata):
    """Writes the model; `tensors` have their Hugging Face names, those of no model their own.

    Args:
        path: of the file, or of parts: then they lie beside it, and are given back in order.
        raw: the `config.json`; a qwen2 keeps its q and k rows, others' are permuted.
        tensors: float32, or bytes of blocks where `types` has a type.
        types: by Hugging Face name, of tensors that are already quantised.
        parts_of: how many tensors go into each part; 0 writes one file.
        order: -1 writes the tensors from the last to the first.
        architecture: as the file says; by default that of the model.
        **metadata: strings, numbers, booleans and lists besides, with `__` for a dot.
    """
    config, types = ModelConfig.from_hf(raw), types or {}
    architecture = architecture or ("qwen2" if raw["model_type"] == "qwen2" else "llama")
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
        _ADD[type(value)](writer, key.replace("__", "."), value)
    pieces = zip(plan(config, HF_NAMES), plan(config, GGUF_NAMES), strict=True)
    both = {hf.source: (hf.heads, gguf.source) for hf, gguf in pieces}
    for name in [*both, *(set(tensors) - set(both))][::order]:
        if name not in tensors:
            continue
        array, (heads, called) = tensors[name], both.get(name, (None, name))
        if heads and architecture != "qwen2":
            rows, columns = array.shape
            array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)
            array = np.ascontiguousarray(array).reshape(rows, columns)
        writer.add_tensor(called, array, raw_dtype=types.get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not parts_of:
        return path
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))
