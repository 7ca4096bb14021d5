"""Damaged weights by the hundred: refused in one clear line, or read exactly as the files say."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_tokenizers
from gguf_files import fields_of, sentencepiece_fields, write_gguf
from mutants.damage import NAMES
from mutants.folder import INDEX, mutate_checkpoint, mutate_peft, mutate_source
from mutants.gguf import mutate_gguf
from mutants.harness import fuzz, refusal, refused_conversion
from mutants.safetensors import mutate_file, shards
from safetensors.numpy import load_file, save_file
from tiny import hf_tensors, leaves_of, raw_config, write_folder

import jaxdepth
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.tuned import Form
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import Adapter, read_adapter, save_adapter
from jaxdepth.weights.convert import convert
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map
from jaxdepth.weights.verify import verify

# What is refused is a message of ours, not of the types that tests check.
pytestmark = pytest.mark.usefixtures("unchecked_shapes")
RAW = raw_config(
    vocab_size=1000, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=4,
)  # fmt: skip
CONFIG = ModelConfig.from_hf(RAW)
TENSORS = hf_tensors(CONFIG)
FORM = Form((0, 1), ("q",), 2, 4.0, first_new=1000)
PARAMS = {
    "layers.q.a": np.full((2, 8, 2), 0.5, np.float32),
    "layers.q.b": np.full((2, 2, 8), 0.25, np.float32),
    "embed_rows": np.ones((1, 8), np.float32),
    "head_rows": np.ones((1, 8), np.float32),
}
FEW = {"source": 50, "gguf": 20, "sentencepiece": 10, "checkpoint": 25, "adapter": 15}
MANY = {"source": 1400, "gguf": 500, "sentencepiece": 250, "checkpoint": 500, "adapter": 200}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with two shards and a tokenizer, a GGUF file, and the checkpoint of the first."""
    place = tmp_path_factory.mktemp("whole")
    source = write_folder(place / "source", RAW, TENSORS, shards=2)
    tiny_tokenizers.build("chatml").save_pretrained(source)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    for name, fields in (("m", fields_of("smollm")), ("spm", sentencepiece_fields())):
        fields = {key.replace(".", "__"): value for key, value in fields.items()}
        write_gguf(place / f"{name}.gguf", RAW, TENSORS, **fields)
    adapter = Adapter(FORM, PARAMS, "b" * 64, ("<|yes|>",), {"settings": {"seed": 0}})
    save_adapter(place / "a.safetensors", adapter)
    write_peft(place / "peft")
    convert(source, place / "checkpoint")
    return place


def arrays_of(model):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(model)}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def source_mutant(whole, place, rng, done):
    """Refused with nothing left behind; or converted to what the files say."""
    source, target = place / "source", place / "target"
    shutil.copytree(whole / "source", source)
    done.append(mutate_source(source, rng))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    tensors = {k: v for file in shards(source) for k, v in load_file(file).items()}
    config, raw = read_config(source / "config.json")
    model, _ = jaxdepth.load(target)
    expected = leaves_of(config, tensors)
    loaded = {name: getattr(model, name)[...] for name in expected if "." not in name}
    loaded |= {n: getattr(model.layers, n[7:])[...] for n in expected if "." in n}
    assert same({k: np.asarray(v) for k, v in loaded.items()}, expected)
    assert json.dumps(read_config(target / "config.json")[1]) == json.dumps(raw)
    assert tokenizer_of(target) == tokenizer_of(source)
    changed = [n for n in TENSORS if not np.array_equal(tensors[n], TENSORS[n])]
    if raw == RAW and changed:
        named = refusal(lambda: verify(source, whole / "checkpoint"))
        assert named.startswith(f"{len(changed)} of {len(TENSORS)} arrays")
    return None


def tokenizer_of(path):
    """Everything that a folder's tokenizer does, and what ends an answer."""
    tokenizer = checkpoint.load_tokenizer(path)
    ends = checkpoint.end_tokens(path, tokenizer)
    if tokenizer is None:
        return None, ends
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, special, ends


def gguf_mutant(whole, name, place, rng, done):
    """Refused with nothing left behind; or converted to what, written again, is the file's data."""
    source, target = place / "m.gguf", place / "target"
    shutil.copy(whole / name, source)
    done.append(mutate_gguf(source, rng))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    model, _ = jaxdepth.load(target)
    tensors = {}
    for mapped in tensor_map(CONFIG, HF_NAMES):
        layer, name = mapped.layer_and_parameter
        module = model if layer is None else model.layers
        parameter = getattr(module, name.removeprefix("layers."))[...]
        array = np.asarray(parameter if layer is None else parameter[layer])
        tensors[mapped.source] = np.ascontiguousarray(mapped.transpose(array))
    again = write_gguf(place / "again.gguf", RAW, tensors)
    assert data_of(again) == data_of(source)
    return None


def data_of(file):
    """The bytes of each tensor of a GGUF file."""
    from gguf import GGUFReader

    return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(file).tensors}


def checkpoint_mutant(whole, original, place, rng, done):
    """Refused at load; or the same in every parameter, in its config and in its tokenizer."""
    path = place / "checkpoint"
    shutil.copytree(whole / "checkpoint", path)
    done.append(mutate_checkpoint(path, rng))
    results = []
    message = refusal(lambda: results.append(jaxdepth.load(path)))
    if message is None:
        (model, _), (first, _) = results[0], original
        assert model.config == first.config
        assert same(arrays_of(model), arrays_of(first))
        assert tokenizer_of(path) == tokenizer_of(whole / "checkpoint")
    return message


def adapter_mutant(whole, place, rng, done):
    """Refused; or, where it is ours and so has a digest, the same."""
    ours = rng.random() < 0.6
    path = place / ("a.safetensors" if ours else "peft")
    if ours:
        shutil.copy(whole / path.name, path)
    else:
        shutil.copytree(whole / path.name, path)
    done.append((mutate_file if ours else mutate_peft)(path, rng))
    results = []
    message = refusal(lambda: results.append(read_adapter(str(path), CONFIG)))
    if message is None and ours:
        assert results[0].form == FORM
        assert (results[0].base, results[0].tokens) == ("b" * 64, ("<|yes|>",))
        assert same(results[0].params, PARAMS)
    return message


def write_peft(folder):
    """A LoRA as PEFT writes one."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    names = [f"base_model.model.{HF_NAMES['q'].format(i=i)[:-7]}.lora_" for i in range(2)]
    a = {f"{name}A.weight": np.full((2, 8), 0.5, np.float32) for name in names}
    b = {f"{name}B.weight": np.full((8, 2), 0.25, np.float32) for name in names}
    save_file(a | b, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "counts", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("kind", FEW)
def test_damage_is_refused_or_harmless(whole, tmp_path, kind, counts):
    original = jaxdepth.load(whole / "checkpoint")
    one = {
        "source": lambda *a: source_mutant(whole, *a),
        "gguf": lambda *a: gguf_mutant(whole, "m.gguf", *a),
        "sentencepiece": lambda *a: gguf_mutant(whole, "spm.gguf", *a),
        "checkpoint": lambda *a: checkpoint_mutant(whole, original, *a),
        "adapter": lambda *a: adapter_mutant(whole, *a),
    }[kind]
    refused = fuzz(kind, counts[kind], tmp_path, one)
    assert 0.3 * counts[kind] < refused < counts[kind]


@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"./{}", "{}/", "config.json"}), ids=lambda n: ascii(n)[:20]
)
def test_no_shard_is_read_from_elsewhere(whole, tmp_path, name):
    """The whole model lies outside too, so that only its name can be what is wrong."""
    source = tmp_path / "a" / "source"
    shutil.copytree(whole / "source", tmp_path / "a", dirs_exist_ok=True)
    shutil.copytree(whole / "source", source)
    index = json.loads((source / INDEX).read_text())
    where = index["weight_map"]
    index["weight_map"] = {tensor: name.replace("{}", shard) for tensor, shard in where.items()}
    (source / INDEX).write_text(json.dumps(index))
    assert INDEX in refusal(lambda: convert(source, tmp_path / "target"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "model.safetensors.index.json", "generation_config.json"],
)
@pytest.mark.parametrize("what", ["endless", "folder", "pipe"])
def test_what_is_no_file_to_read(whole, tmp_path, name, what):
    """A file of a terabyte (with nothing in it), a folder or a pipe in the place of a file."""
    source = tmp_path / "source"
    shutil.copytree(whole / "source", source)
    (source / name).unlink()
    if what == "folder":
        (source / name).mkdir()
    elif what == "pipe":
        os.mkfifo(source / name)
    else:
        with (source / name).open("wb") as file:
            file.truncate(10**12)
    message = refusal(lambda: convert(source, tmp_path / "target"))
    if what == "endless" or name.startswith(("config", "model")):
        assert name in message
    if message is not None:
        assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_count_in_a_gguf_header_is_compared_with_the_file(whole, tmp_path):
    """The reader would go on for each of so many numbers, beyond the end of the file."""
    content = (whole / "m.gguf").read_bytes()
    place = content.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    for count in (2**21, 2**40, 2**64 - 1):
        changed = content[:place] + count.to_bytes(8, "little") + content[place + 8 :]
        (tmp_path / "m.gguf").write_bytes(changed)
        message = refusal(lambda: convert(tmp_path / "m.gguf", tmp_path / "target"))
        assert "m.gguf is not a readable GGUF file (it" in message


def test_two_tensors_of_a_gguf_file_have_each_a_place(whole, tmp_path):
    content = (whole / "m.gguf").read_bytes()
    places = [content.index(name) + len(name) + 24 for name in (b"attn_q.weight", b"attn_k.weight")]
    changed = bytearray(content)
    changed[places[1] : places[1] + 8] = content[places[0] : places[0] + 8]
    (tmp_path / "m.gguf").write_bytes(changed)
    message = refusal(lambda: convert(tmp_path / "m.gguf", tmp_path / "target"))
    assert "tensor blk.0.attn_k.weight begins at byte" in message


def test_damaged_weights_are_refused_in_one_line(whole, tmp_path):
    """Of a process that loads each: what readers and their threads print is not for users."""
    path = tmp_path / "checkpoint"
    shutil.copytree(whole / "checkpoint", path)
    script = """
import pathlib, sys
import jaxdepth
from jaxdepth.cli import guarded
path = pathlib.Path(sys.argv[1])
files = sorted(f for f in (path / "weights").rglob("*") if f.stat().st_size and f.is_file())
for number, file in enumerate(files):
    content = file.read_bytes()
    if number < 3 or number % 9 == 0:
        for left in (content[: len(content) // 2], bytes(len(content)), None):
            file.unlink() if left is None else file.write_bytes(left)
            guarded(lambda: jaxdepth.load(path) and 0)
        file.write_bytes(content)
jaxdepth.load(path)
"""
    command = [sys.executable, "-c", script, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) > 10
    assert all(line.startswith(f"jaxdepth: error: {path}") for line in lines), done.stderr
    assert not done.stdout
