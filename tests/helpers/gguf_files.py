"""GGUF files of tiny models, written by the `gguf` package as llama.cpp's converter writes them."""

import numpy as np
from gguf import GGUFWriter

from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.tensor_map import GGUF_NAMES, HF_NAMES, tensor_map

_ADD = {
    bool: GGUFWriter.add_bool,
    str: GGUFWriter.add_string,
    int: GGUFWriter.add_uint32,
    float: GGUFWriter.add_float32,
    list: GGUFWriter.add_array,
}


def write_gguf(path, raw, tensors, types=None, parts_of=0, order=1, architecture=None, **metadata):
    """Write a GGUF model.

    Args:
        path: of the file; parts are written beside it.
        raw: the `config.json`; the q and k rows of all architectures but qwen2 are permuted.
        tensors: by Hugging Face name, or by any name if the model has no such tensor; float32, or
            the bytes of blocks if `types` has a type.
        types: of tensors that are already quantised, by Hugging Face name.
        parts_of: how many tensors go into each part; 0 writes one file.
        order: -1 writes the tensors from the last to the first.
        architecture: in the metadata; by default that of the model.
        **metadata: more strings, numbers, booleans and lists, with `__` for a dot.

    Returns:
        The path, or those of the parts in order.
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
    pairs = zip(tensor_map(config, HF_NAMES), tensor_map(config, GGUF_NAMES), strict=True)
    mapped = {hf.source: (hf.heads, gguf.source) for hf, gguf in pairs}
    for name in [*mapped, *(set(tensors) - set(mapped))][::order]:
        if name not in tensors:
            continue
        array, (heads, gguf_name) = tensors[name], mapped.get(name, (None, name))
        if heads and architecture != "qwen2":
            rows, columns = array.shape
            array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)
            array = np.ascontiguousarray(array).reshape(rows, columns)
        writer.add_tensor(gguf_name, array, raw_dtype=types.get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not parts_of:
        return path
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))


def fields_of(pre: str, **more) -> dict:
    """The fields of a byte-level BPE with a few merges, and a whole word that none makes."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["f o", "fo o", "B a", "1 2", "Ġ 1", "e s"]
    tokens = [*sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    tokens += ["ĠHERE", "<s>"]
    p = "tokenizer.ggml."
    return {
        f"{p}model": "gpt2",
        f"{p}pre": pre,
        f"{p}tokens": tokens,
        f"{p}merges": merges,
        f"{p}token_type": [1] * (len(tokens) - 1) + [3],
        f"{p}bos_token_id": len(tokens) - 1,
        **{p + key: value for key, value in more.items()},
    }


def sentencepiece_fields(**more) -> dict:
    """The fields of a SentencePiece BPE with a few pieces, control tokens and symbols."""
    pieces = ["\u2581t", "he", "\u2581the", "ab", "aba", "\u2581", *"theab", "\u00e9"]
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *names, *pieces, "<|im_start|>", "::"]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))] + [-1000.0, 0.0]
    p = "tokenizer.ggml."
    return {
        f"{p}model": "llama",
        f"{p}pre": "default",
        f"{p}tokens": tokens,
        f"{p}scores": scores,
        f"{p}token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4, 4],
        f"{p}bos_token_id": 1,
        f"{p}eos_token_id": 2,
        f"{p}add_space_prefix": True,
        **{p + key: value for key, value in more.items()},
    }
