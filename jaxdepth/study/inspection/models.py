"""What checkpoints, adapters and unconverted weights are, for `jaxdepth inspect`."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16)
import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.files import damaged_header, read_arrays
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.study.inspection.seen import Seen, counted, short, size, told
from jaxdepth.study.wording import runs_of_exits
from jaxdepth.weights import adapter, checkpoint
from jaxdepth.weights.convert import planned
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer
from jaxdepth.weights.sources import GGUFSource, open_source

Rows = list[tuple[str, str]]


def checkpoint_seen(path: Path) -> Seen:
    """A converted checkpoint, by its manifest and the small files, which are checked.

    Raises:
        InputError: it is damaged.
    """
    manifest = checkpoint.read_manifest(path)
    config, raw = read_config(path / "config.json")
    try:
        leaves, source = manifest["leaves"], manifest["source"]
        held = Counter()
        for leaf in leaves.values():
            held[leaf["dtype"]] += math.prod(leaf["shape"]) * np.dtype(leaf["dtype"]).itemsize
        chunks = len({leaf["chunk"] for leaf in leaves.values()})
        rows = [
            *_model_rows(config, raw["model_type"]),
            ("weights", ", ".join(f"{size(n)} of {dtype}" for dtype, n in held.items())),
            ("fingerprint", manifest["fingerprint"]),
            (
                "digests",
                f"{counted(len(leaves), 'array')} in {counted(chunks, 'chunk')}, a SHA-256 of each "
                "array (checked when they are loaded)",
            ),
            ("made of", source["path"]),
            *_file_rows(source["files"]),
            ("made by", f"jaxdepth {manifest['jaxdepth']}"),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path / checkpoint.MANIFEST} is damaged ({error!r}): convert again"
        ) from None
    tokenizer = checkpoint.load_tokenizer(path)
    ends = checkpoint.end_tokens(path, tokenizer)
    return Seen("a checkpoint of jaxdepth", rows + _tokenizer_rows(tokenizer, ends))


def source_seen(path: Path) -> Seen:
    """Weights that are not converted, by their headers.

    Raises:
        InputError: they cannot be read, or the model is not supported.
    """
    opened = open_source(path)
    gguf = isinstance(opened, GGUFSource)
    rows = _model_rows(opened.config, opened.raw_config["model_type"])
    dtypes = Counter(_gguf_types(opened.files) if gguf else _safetensors_types(opened.files))
    rows += [
        ("tensors", ", ".join(f"{count} of {dtype}" for dtype, count in dtypes.most_common())),
        *(("file" if n == 0 else "", _of(f)) for n, f in enumerate(opened.files)),
    ]
    try:
        needed = sum(map(opened.nbytes, planned(opened)))
        tokenizer = gguf_tokenizer(opened.fields) if gguf else checkpoint.load_tokenizer(path)
        ends = () if gguf else checkpoint.end_tokens(path, tokenizer)
        converts = f"yes, to {size(needed)}"
    except InputError as error:
        tokenizer, ends, converts = None, (), f"no: {error}"
    kind = "a GGUF file" if gguf else "a Hugging Face folder"
    rows += [*_tokenizer_rows(tokenizer, ends), ("converts", converts)]
    return Seen(f"{kind}, not converted", rows)


def adapter_seen(path: Path) -> Seen:
    """An adapter that `jaxdepth tune` made.

    Raises:
        InputError: it is damaged, or something else.
    """
    arrays, said = read_arrays(path, "an adapter", adapter.FORMAT)
    try:
        form, made = said["form"], said["made"]
        rank, tokens = form["rank"], [str(token) for token in said["tokens"]]
        layers = np.array(form["layers"], int) + 1
        held = Counter(str(array.dtype) for array in arrays.values())
        parameters, nbytes = (sum(getattr(a, n) for a in arrays.values()) for n in _SIZES)
        rows = [
            ("form", "weights" if rank is None else f"LoRA, rank {rank}, alpha {form['alpha']}"),
            ("of", f"{', '.join(form['leaves'])} of layers {runs_of_exits(layers, layers > 0)}"),
            ("arrays", f"{len(arrays)}, {parameters:,} numbers, {size(nbytes)} of {_all(held)}"),
            ("base", str(said["base"] or "not told")),
            ("new tokens", ", ".join(tokens) or "none"),
            ("file", _of(path)),
            ("sha256", adapter.adapter_digest(str(path))),
            ("settings", told(made.get("settings") or {})),
            ("made by", told(made.get("versions") or {})),
        ]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise damaged_header(path, error) from None
    return Seen("an adapter of jaxdepth", rows)


_SIZES = ("size", "nbytes")


def _model_rows(config: ModelConfig, family: str) -> Rows:
    c = config
    parameters = sum(map(math.prod, parameter_shapes(c).values()))
    window = "none"
    if c.sliding_window is not None:
        layers = "all" if c.sliding_layers is None else sum(c.sliding_layers)
        window = f"{c.sliding_window:,} keys, in {layers} of {c.num_hidden_layers} layers"
    rope = f"theta {c.rope.theta:,.10g}"
    if c.rope.scaling is not None:
        scaling = vars(c.rope.scaling).items()
        rope += ", llama3 scaling: " + ", ".join(f"{k} {v:,.10g}" for k, v in scaling)
    return [
        ("family", f"{family}{', with biases of queries, keys, values' if c.qkv_bias else ''}"),
        (
            "sizes",
            f"{counted(c.num_hidden_layers, 'layer')}, width {c.hidden_size:,}, "
            f"{counted(c.num_attention_heads, 'head')} of {c.head_dim} on "
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


def _file_rows(files: Mapping[str, Mapping]) -> Rows:
    return [
        ("", f"{name}: {size(said['bytes'])}, sha256 {said['sha256']}")
        for name, said in files.items()
    ]


def _tokenizer_rows(tokenizer, ends: Sequence[int]) -> Rows:
    if tokenizer is None:
        return [("tokenizer", "none")]
    names = {"BOS": tokenizer.bos_token_id, "EOS": tokenizer.eos_token_id}
    told = [f"{name} {_token(tokenizer, i)}" for name, i in names.items()]
    said = f"{counted(len(tokenizer), 'token')}, {', '.join(told)}"
    if ends:
        said += f"; answers end with {', '.join(_token(tokenizer, i) for i in ends)}"
    template = tokenizer.chat_template
    if not template:
        return [("tokenizer", said), ("chat template", "none")]
    text = template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)
    shown = f"{counted(len(text), 'character')}: {short(text, 120)}"
    return [("tokenizer", said), ("chat template", shown)]


def _token(tokenizer, number: int | None) -> str:
    return "none" if number is None else f"{tokenizer.convert_ids_to_tokens(number)} ({number})"


def _safetensors_types(files: Sequence[Path]) -> list[str]:
    from safetensors import safe_open

    found = []
    for file in files:
        with safe_open(file, framework="np") as of:
            found += [of.get_slice(name).get_dtype() for name in of.keys()]  # noqa: SIM118
    return found


def _gguf_types(files: Sequence[Path]) -> list[str]:
    from gguf import GGUFReader

    return [tensor.tensor_type.name for file in files for tensor in GGUFReader(file).tensors]


def _of(file: Path) -> str:
    return f"{file.name}: {size(file.stat().st_size)}"


def _all(held: Counter) -> str:
    return ", ".join(held)
