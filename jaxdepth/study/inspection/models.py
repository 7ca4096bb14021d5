"""Describe checkpoints and weights that are not converted."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16)
import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.study.inspection.description import (
    Description,
    Rows,
    format_bytes,
    format_count,
    name_first,
    truncate,
)
from jaxdepth.weights.checkpoint import end_tokens, load_tokenizer, read_manifest
from jaxdepth.weights.gguf.source import GGUFSource, gguf_types
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer
from jaxdepth.weights.huggingface.folder_tokenizer import load_folder_tokenizer
from jaxdepth.weights.huggingface.source import SafetensorsSource, safetensors_dtypes
from jaxdepth.weights.quantised.methods import describe_method
from jaxdepth.weights.quantised.packed import Settings
from jaxdepth.weights.sources import open_source, source_tensors


def describe_checkpoint(path: Path) -> Description:
    """Describe a checkpoint by its manifest and its small files, which are verified.

    Raises:
        InputError: it is damaged.
    """
    manifest = read_manifest(path)
    config, raw = read_config(path / "config.json")
    records, source = manifest["leaves"], manifest["source"]
    sizes: Counter[str] = Counter()
    for record in records.values():
        itemsize = np.dtype(record["dtype"]).itemsize
        sizes[record["dtype"]] += math.prod(record["shape"]) * itemsize
    arrays = format_count(len(records), "array")
    chunks = format_count(len({record["chunk"] for record in records.values()}), "chunk")
    rows = [
        *_model_rows(config, raw["model_type"]),
        ("weights", ", ".join(f"{format_bytes(n)} of {dtype}" for dtype, n in sizes.items())),
        ("fingerprint", manifest["fingerprint"]),
        (
            "digests",
            f"{arrays} in {chunks}, a SHA-256 of each array (checked when they are loaded)",
        ),
        ("made of", source["path"]),
        *_quantised_rows(source.get("quantisation")),
        *(
            ("", f"{name}: {format_bytes(file['bytes'])}, sha256 {file['sha256']}")
            for name, file in source["files"].items()
        ),
        ("made by", f"jaxdepth {manifest['jaxdepth']}"),
    ]
    tokenizer = load_tokenizer(path)
    rows += tokenizer_rows(tokenizer, end_tokens(path, tokenizer))
    return Description("a checkpoint of jaxdepth", rows)


def describe_source(path: Path) -> Description:
    """Describe weights that are not converted by their headers.

    Raises:
        InputError: they cannot be read, or the model is not supported.
    """
    source = open_source(path)
    types_of = gguf_types if isinstance(source, GGUFSource) else safetensors_dtypes
    dtypes = Counter(dtype for file in source.files for dtype in types_of(file))
    family = source.raw_config["model_type"]
    if isinstance(source, SafetensorsSource) and source.model_type != family:
        family += f", read from {source.model_type}"
    rows = [
        *_model_rows(source.config, family),
        ("tensors", ", ".join(f"{count} of {dtype}" for dtype, count in dtypes.most_common())),
        *_quantised_rows(source.quantisation),
        *name_first("file", [file_size(file) for file in source.files]),
    ]
    end_ids: Sequence[int] = ()
    try:
        nbytes = sum(map(source.nbytes, source_tensors(source)))
        if isinstance(source, GGUFSource):
            tokenizer = gguf_tokenizer(source.fields)
        else:
            tokenizer = load_folder_tokenizer(path)
            end_ids = end_tokens(path, tokenizer)
        converts = f"yes, to {format_bytes(nbytes)}"
    except InputError as error:
        tokenizer, converts = None, f"no: {error}"
    rows += [*tokenizer_rows(tokenizer, end_ids), ("converts", converts)]
    kind = "a GGUF file" if isinstance(source, GGUFSource) else source.kind
    return Description(f"{kind}, not converted", rows)


def _quantised_rows(settings: Settings | None) -> Rows:
    """The method by which a source is quantised, if it is."""
    return [] if settings is None else [("quantised by", describe_method(settings))]


def _model_rows(config: ModelConfig, family: str) -> Rows:
    c = config
    parameters = sum(map(math.prod, parameter_shapes(c).values()))
    window = "none"
    if c.sliding_window is not None:
        layers = "all" if c.sliding_layers is None else sum(c.sliding_layers)
        window = f"{c.sliding_window:,} keys, in {layers} of {c.num_hidden_layers} layers"
    rope = f"theta {c.rope.theta:,.10g}"
    if c.rope.scaling is not None:
        kind = type(c.rope.scaling).__name__.removesuffix("Scaling").lower()
        scaling = vars(c.rope.scaling).items()
        rope += f", {kind} scaling: " + ", ".join(f"{k} {v:,.10g}" for k, v in scaling)
    if c.rope_layers is not None:
        rope += f", in {sum(c.rope_layers)} of {c.num_hidden_layers} layers"
    if c.query_scaling is not None:
        rope += f", queries scaled every {c.query_scaling.original_max_position_embeddings:,}"
        rope += f" positions, beta {c.query_scaling.beta:,.10g}"
    family += ", with biases of queries, keys, values" if c.qkv_bias else ""
    family += ", with norms of queries and keys" if c.qk_norm else ""
    return [
        ("family", family),
        (
            "sizes",
            f"{format_count(c.num_hidden_layers, 'layer')}, width {c.hidden_size:,}, "
            f"{format_count(c.num_attention_heads, 'head')} of {c.head_dim} on "
            f"{c.num_key_value_heads} of keys and values, MLP {c.intermediate_size:,}, "
            f"vocabulary {c.vocab_size:,}",
        ),
        (
            "parameters",
            f"{parameters:,}, the head {'tied to' if c.tie_word_embeddings else 'apart from'} "
            "the embedding",
        ),
        ("exits", f"1 to {c.num_hidden_layers}"),
        ("positions", f"{c.max_position_embeddings:,}; window: {window}"),
        ("RoPE", rope),
    ]


def tokenizer_rows(tokenizer: FastTokenizer | None, end_ids: Sequence[int] = ()) -> Rows:
    """A tokenizer with the ids that end an answer, and its chat template."""
    if tokenizer is None:
        return [("tokenizer", "none")]
    text = (
        f"{format_count(len(tokenizer), 'token')}, BOS {_token(tokenizer, tokenizer.bos_token_id)}"
        f", EOS {_token(tokenizer, tokenizer.eos_token_id)}"
    )
    if end_ids:
        text += f"; answers end with {', '.join(_token(tokenizer, i) for i in end_ids)}"
    return [("tokenizer", text), ("chat template", template_text(tokenizer.chat_template))]


def template_text(template: object) -> str:
    """The length and the beginning of a chat template, or of several by name."""
    if not template:
        return "none"
    text = template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)
    return f"{format_count(len(text), 'character')}: {truncate(text, 120)}"


def _token(tokenizer, token_id: int | None) -> str:
    if token_id is None:
        return "none"
    return f"{tokenizer.convert_ids_to_tokens(token_id)} ({token_id})"


def file_size(file: Path) -> str:
    """A file's name and size."""
    return f"{file.name}: {format_bytes(file.stat().st_size)}"
