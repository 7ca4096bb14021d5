"""Every way in which a source can be wrong is one clear error, and leaves nothing behind."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from gguf_files import write_gguf
from safetensors.numpy import load_file, save_file
from tiny import write_folder
from tiny_source import Q3, RAW, TENSORS

from jaxdepth import InputError
from jaxdepth.weights.convert import convert

INDEX = "model.safetensors.index.json"


def damaged(tmp_path, change):
    """A folder of two shards with an index, damaged by `change(folder)`."""
    folder = write_folder(tmp_path / "source", RAW, TENSORS, shards=2)
    change(folder)
    return folder


def edit_index(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def edit_tensor(folder, name, change):
    """Replaces, or with None removes, a tensor wherever it is."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        if name in tensors:
            new = change(tensors[name])
            tensors = {k: v for k, v in tensors.items() if k != name}
            save_file(tensors | ({} if new is None else {name: new}), file)


def add_to_first(folder, name, array):
    first = sorted(folder.glob("*.safetensors"))[0]
    save_file(load_file(first) | {name: array}, first)


def cut(folder, size):
    first = sorted(folder.glob("*.safetensors"))[0]
    os.truncate(first, first.stat().st_size - size)


def poison(array, value):
    array = array.copy()
    array.flat[array.size // 2] = value
    return array


SECOND = "model-00002-of-00002.safetensors"
DAMAGES = {
    "cut": (lambda f: cut(f, 10), "00001.*truncated"),
    "cut to nothing": (lambda f: cut(f, 0) or os.truncate(f / SECOND, 0), "00002.*truncated"),
    "missing shard": (lambda f: (f / SECOND).unlink(), f"lacks shard {SECOND}"),
    "missing tensor": (lambda f: edit_tensor(f, Q3, lambda a: None), Q3),
    "wrong shape": (lambda f: edit_tensor(f, Q3, lambda a: a[:-1].copy()), rf"{Q3} \(63, 64\)"),
    "extra tensor": (
        lambda f: add_to_first(f, "model.extra.weight", np.ones(3)),
        "F64|model.extra",
    ),
    "extra float tensor": (
        lambda f: add_to_first(f, "model.extra.weight", np.ones(3, np.float32)),
        "unexpected tensor model.extra.weight",
    ),
    "bias": (
        lambda f: add_to_first(f, Q3.replace("weight", "bias"), np.ones(64, np.float32)),
        "q_proj.bias",
    ),
    "duplicate": (
        lambda f: [
            save_file(load_file(p) | {"model.norm.weight": np.ones(64, np.float32)}, p)
            for p in sorted(f.glob("*.safetensors"))
        ],
        "model.norm.weight is in both",
    ),
    "nan": (lambda f: edit_tensor(f, Q3, lambda a: poison(a, np.nan)), f"{Q3}.*1 values.*NaN"),
    "infinity": (lambda f: edit_tensor(f, Q3, lambda a: poison(a, -np.inf)), f"{Q3}.*infinite"),
    "bfloat16 nan": (
        lambda f: edit_tensor(f, Q3, lambda a: poison(a.astype(ml_dtypes.bfloat16), np.nan)),
        f"{Q3}.*NaN",
    ),
    "integers": (lambda f: edit_tensor(f, Q3, lambda a: a.astype(np.int8)), "I8"),
    "shard up": (
        lambda f: edit_index(f, lambda m: m.update({Q3: "../x.safetensors"})),
        "leaves its folder",
    ),
    "shard absolute": (
        lambda f: edit_index(f, lambda m: m.update({Q3: "/etc/x.safetensors"})),
        "leaves its folder",
    ),
    "shard windows": (
        lambda f: edit_index(f, lambda m: m.update({Q3: "..\\x.safetensors"})),
        "leaves its folder",
    ),
    "shard no name": (lambda f: edit_index(f, lambda m: m.update({Q3: 3})), "leaves its folder"),
    "index elsewhere": (
        lambda f: edit_index(
            f, lambda m: m.update({Q3: next(s for s in m.values() if s != m[Q3])})
        ),
        f"{Q3} is in .* but it is in",
    ),
    "index empty": (lambda f: (f / INDEX).write_text("{}"), "weight_map"),
    "index broken": (lambda f: (f / INDEX).write_text("{"), "not valid JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config broken": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "config list": (lambda f: (f / "config.json").write_text("[]"), "expected an object"),
    "other architecture": (
        lambda f: (f / "config.json").write_text(json.dumps(RAW | {"model_type": "gpt_neox"})),
        "gpt_neox",
    ),
    "no weights": (lambda f: [p.unlink() for p in f.glob("*.safetensors*")], "no \\*.safetensors"),
    "pickle only": (
        lambda f: (
            [p.unlink() for p in f.glob("*.safetensors*")]
            + [(f / "pytorch_model.bin").write_bytes(b"")]
        ),
        "pytorch_model.bin.*can run code",
    ),
    "tokenizer broken": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
    "generation config list": (
        lambda f: (f / "generation_config.json").write_text("[]"),
        "generation_config.json holds a list",
    ),
    "tokenizer not json": (lambda f: (f / "tokenizer.json").write_text("}"), "not valid JSON"),
    "tokenizer.model only": (lambda f: (f / "tokenizer.model").write_bytes(b"x"), "no-tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_clear_error(unchecked_shapes, tmp_path, name):
    change, message = DAMAGES[name]
    source = damaged(tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        convert(source, tmp_path / "target")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


# GGUF


def without(tensors, name):
    return {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "gpt2"}, "gpt2"),
        ({"llama__rope__scaling__type": "yarn"}, "RoPE"),
        ({"llama__expert_count": "8"}, "expert_count"),
        ({"tokenizer__ggml__model": "bert"}, "bert"),
        ({"tensors": without(TENSORS, Q3)}, "blk.3.attn_q.weight"),
        ({"tensors": without(TENSORS, "model.embed_tokens.weight")}, "token_embd.weight"),
        ({"tensors": TENSORS | {"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}}, "RoPE"),
        ({"tensors": TENSORS | {Q3: poison(TENSORS[Q3], np.nan)}}, "blk.3.attn_q.weight.*NaN"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_gguf_refused_by_name(tmp_path, settings, message):
    source = write_gguf(tmp_path / "m.gguf", **{"raw": RAW, "tensors": TENSORS} | settings)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "target")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf"]


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, -1000])
def test_cut_gguf(tmp_path, keep):
    source = write_gguf(tmp_path / "m.gguf", RAW, TENSORS)
    size = source.stat().st_size
    os.truncate(source, keep if keep >= 0 else size + keep)
    with pytest.raises(InputError, match=r"m.gguf.*fetch it again"):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
