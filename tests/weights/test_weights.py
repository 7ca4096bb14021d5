"""Conversion: every layout of a source, and every way in which one can be wrong."""

import json
import os
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from gguf_files import write_gguf
from safetensors.numpy import load_file, save_file
from tiny import hf_tensors, leaves_of, model_of, prompts, raw_config, write_folder

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.cpu.host_arrays import aligned_empty
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.runtime.preemption import Stopped
from jaxdepth.weights import checkpoint
from jaxdepth.weights import convert as convert_module
from jaxdepth.weights import load as load_module
from jaxdepth.weights import verify as verify_module
from jaxdepth.weights.convert import convert
from jaxdepth.weights.gguf.source import unpermute
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map
from jaxdepth.weights.verify import verify

RAW = raw_config()
CONFIG = ModelConfig.from_hf(RAW)
TENSORS = hf_tensors(CONFIG)
INDEX = "model.safetensors.index.json"


def assert_holds(path, tensors=TENSORS, raw=RAW):
    model, tokenizer = jaxdepth.load(path)
    assert tokenizer is None
    for name, array in leaves_of(ModelConfig.from_hf(raw), tensors).items():
        module = model.layers if name.startswith("layers.") else model
        parameter = getattr(module, name.removeprefix("layers."))[...]
        assert np.array_equal(np.asarray(parameter), array), name


@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (3, False)])
def test_every_layout_gives_the_same_parameters(tmp_path, shards, index):
    source = write_folder(tmp_path / "source", RAW, TENSORS, shards, index)
    assert convert(source, tmp_path / "a" / "b" / "target")
    assert_holds(tmp_path / "a" / "b" / "target")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["target"]


def test_logits_survive_the_round_trip(tmp_path):
    convert(write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target")
    model, _ = jaxdepth.load(tmp_path / "target")
    logits = jaxdepth.exit_logits(model, *prompts(), 3)
    assert np.array_equal(logits, jaxdepth.exit_logits(model_of(RAW), *prompts(), 3))


def test_bfloat16_is_kept_and_can_be_widened(tmp_path):
    low = {k: v.astype(ml_dtypes.bfloat16) for k, v in TENSORS.items()}
    convert(write_folder(tmp_path / "source", RAW, low), tmp_path / "target")
    model, _ = jaxdepth.load(tmp_path / "target")
    assert {str(v.dtype) for v in jax.tree.leaves(model)} == {"bfloat16"}
    wide, _ = jaxdepth.load(tmp_path / "target", dtype="float32")
    assert np.array_equal(wide.embed[...], low["model.embed_tokens.weight"].astype(np.float32))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_filled_on_the_host_or_on_the_device_it_is_the_same(tmp_path, monkeypatch, dtype):
    raw = raw_config(hidden_size=200, intermediate_size=600)  # more than one block each way
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    convert(write_folder(tmp_path / "source", raw, tensors), tmp_path / "target")
    host, _ = jaxdepth.load(tmp_path / "target", dtype=dtype)
    monkeypatch.setattr(load_module, "_host_is_device", lambda: False)
    device, _ = jaxdepth.load(tmp_path / "target", dtype=dtype)
    for one, other in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_what_is_filled_on_the_host_is_not_copied():
    for dtype in (np.float32, ml_dtypes.bfloat16):
        array = aligned_empty((3, 5, 7), dtype)
        assert array.shape == (3, 5, 7)
        assert load_module._to_device(array).unsafe_buffer_pointer() == array.ctypes.data


def test_a_second_conversion_does_nothing_or_refuses(tmp_path):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    assert convert(source, tmp_path / "target") is True
    before = (tmp_path / "target" / checkpoint.MANIFEST).stat().st_mtime_ns
    assert convert(source, tmp_path / "target") is False
    assert (tmp_path / "target" / checkpoint.MANIFEST).stat().st_mtime_ns == before
    other = write_folder(tmp_path / "other", RAW, hf_tensors(CONFIG, seed=1))
    with pytest.raises(InputError, match="another source"):
        convert(other, tmp_path / "target")
    assert_holds(tmp_path / "target")


def test_chunks_are_written_piece_by_piece(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    largest = max(t.nbytes for t in TENSORS.values())
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    sizes = []
    real = checkpoint.write_chunk

    def spy(folder, number, arrays, records):
        sizes.append(sum(a.nbytes for a in arrays.values()))
        real(folder, number, arrays, records)

    monkeypatch.setattr(checkpoint, "write_chunk", spy)
    convert(source, tmp_path / "target")
    assert len(sizes) == len(TENSORS)
    assert max(sizes) == largest
    assert_holds(tmp_path / "target")


def test_an_interrupted_conversion_never_looks_finished(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    calls = []
    real = checkpoint.write_chunk

    def interrupted(folder, number, arrays, records):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(folder, number, arrays, records)

    monkeypatch.setattr(checkpoint, "write_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    monkeypatch.setattr(checkpoint, "write_chunk", real)
    assert convert(source, tmp_path / "target")
    assert_holds(tmp_path / "target")


def written(monkeypatch):
    """The numbers of the chunks that are written from now on."""
    numbers, real = [], checkpoint.write_chunk

    def spy(folder, number, arrays, records):
        numbers.append(number)
        real(folder, number, arrays, records)

    monkeypatch.setattr(checkpoint, "write_chunk", spy)
    return numbers


def test_a_conversion_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(
        convert_module.preemption, "raise_if_stop_requested", raise_after(5, Stopped)
    )
    with pytest.raises(Stopped):
        convert(source, tmp_path / "target")
    monkeypatch.undo()
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    # One tensor that was converted already, and one that was not, change in the meantime.
    again = TENSORS | {name: TENSORS[name] + 1 for name in ("model.norm.weight", Q3)}
    write_folder(source, RAW, again)
    numbers = written(monkeypatch)
    assert convert(source, tmp_path / "target")
    norm = [p.key for p in tensor_map(CONFIG, HF_NAMES)].index("norm")
    assert numbers == [norm, *range(5, len(TENSORS))]
    assert_holds(tmp_path / "target", again)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "target"]


def raise_after(calls, error):
    left = [calls]

    def check():
        left[0] -= 1
        if not left[0]:
            raise error

    return check


def test_what_an_older_conversion_left_does_not_get_in(tmp_path):
    partial = tmp_path / ".target.partial"
    (partial / "weights" / "00077").mkdir(parents=True)
    (partial / "weights" / "00000.orbax-checkpoint-tmp").mkdir()
    (partial / "tokenizer.json").write_text("{}")
    convert(write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target")
    assert sorted(p.name for p in (tmp_path / "target").iterdir()) == [
        "config.json",
        "jaxdepth.json",
        "weights",
    ]
    assert [p.name for p in (tmp_path / "target" / "weights").iterdir()] == ["00000"]
    assert_holds(tmp_path / "target")


def test_too_little_space_is_found_before_anything_is_written(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    usage = convert_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda path: usage)
    numbers = written(monkeypatch)
    with pytest.raises(InputError, match=r"needs .* GB, there are 1e-06 GB"):
        convert(source, tmp_path / "target")
    assert not numbers
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def hub_cache(monkeypatch, tmp_path, files):
    """A cache as the hub's client keeps it: snapshots of links to blobs."""
    from huggingface_hub import constants

    model = tmp_path / "hub" / "models--some--model"
    (model / "refs").mkdir(parents=True)
    (model / "blobs").mkdir()
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    for number, file in enumerate(files):
        blob = model / "blobs" / str(number)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_in_the_hubs_cache(tmp_path, monkeypatch, shards):
    source = write_folder(tmp_path / "source", RAW, TENSORS, shards, index=shards > 1)
    hub_cache(monkeypatch, tmp_path, source.iterdir())
    convert("some/model", tmp_path / "target")
    assert_holds(tmp_path / "target")
    manifest = checkpoint.read_manifest(tmp_path / "target")
    assert manifest["source"]["path"] == "some/model"
    with pytest.raises(InputError, match=r"some/other is not a local folder or file"):
        convert("some/other", tmp_path / "other")


def test_killed_at_any_point_the_target_is_absent_or_whole(tmp_path):
    """SIGKILL from inside, after each of several writes; then the same command finishes."""
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    script = """
import os, signal, sys
from jaxdepth.weights import checkpoint, convert
convert.CHUNK_BYTES = 1
left = [int(sys.argv[3])]
real = checkpoint.write_chunk
def write(folder, number, arrays, records):
    real(folder, number, arrays, records)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_chunk = write
finish = checkpoint.write_manifest
def last(folder, manifest):
    finish(folder, manifest)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_manifest = last
convert.convert(sys.argv[1], sys.argv[2])
"""
    target = tmp_path / "target"
    for after in (2, 999):
        done = subprocess.run([sys.executable, "-c", script, source, target, str(after)])
        assert done.returncode == -9
        assert not target.exists()
    assert convert(source, target)
    assert_holds(target)
    assert [p.name for p in tmp_path.iterdir() if "target" in p.name] == ["target"]


# Verifying


def test_a_conversion_is_verified(tmp_path, capsys):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    assert main(["convert", str(source), str(tmp_path / "target"), "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"verified: {len(TENSORS)} arrays are those of {source}"
    assert lines[2].startswith("logits of every exit: within ")
    verified = verify(source, tmp_path / "target")
    assert verified.arrays == len(TENSORS)
    assert verified.logits < 1e-5


def test_flips_are_converted_as_they_are_and_named(tmp_path):
    target = tmp_path / "target"
    convert(write_folder(tmp_path / "source", RAW, TENSORS), target)
    flipped = {name: array.copy() for name, array in TENSORS.items()}
    for name in (Q3, "model.norm.weight"):
        flipped[name].view(np.uint32).flat[7] ^= 1 << 20
    source = write_folder(tmp_path / "flipped", RAW, flipped)
    with pytest.raises(InputError, match=r"2 of 39 arrays .* differ from .*: layers.3.q, norm: "):
        verify(source, target)
    convert(source, tmp_path / "other")
    assert_holds(tmp_path / "other", flipped)
    with pytest.raises(InputError, match="another model"):
        verify(write_folder(tmp_path / "third", raw_config(rms_norm_eps=1e-4), TENSORS), target)


def test_the_logits_show_what_digests_cannot(tmp_path, monkeypatch):
    """Arrays that are right on disk, and stacked in the wrong order."""
    source, target = write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target"
    convert(source, target)
    real = Mistral.__init__

    def swapped(self, config, arrays, mesh=None):
        real(self, config, arrays | {"layers.up": arrays["layers.up"][::-1]}, mesh)

    monkeypatch.setattr(verify_module, "find_spec", lambda name: None)
    reference = verify_module._model_of(verify_module.open_source(source))
    monkeypatch.setattr(verify_module, "_model_of", lambda opened: reference)
    monkeypatch.setattr(Mistral, "__init__", swapped)
    with pytest.raises(InputError, match=r"logits of .* at exit 1 are off by"):
        verify(source, target)


def test_logits_are_left_out_where_two_models_do_not_fit(tmp_path, monkeypatch):
    source, target = write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target"
    convert(source, target)
    monkeypatch.setattr(verify_module, "_available_memory", lambda: 1000)
    verified = verify(source, target)
    assert verified.logits is None
    assert "do not fit into memory" in verified.reference


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


Q3 = "model.layers.3.self_attn.q_proj.weight"
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


def test_tied_head(tmp_path):
    raw = raw_config(tie_word_embeddings=True)
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    same = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    convert(write_folder(tmp_path / "same", raw, same), tmp_path / "target")
    assert_holds(tmp_path / "target", tensors, raw)
    other = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
    with pytest.raises(InputError, match=r"lm_head.weight differs"):
        convert(write_folder(tmp_path / "other", raw, other), tmp_path / "target2")


def test_old_buffers_are_ignored(tmp_path):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    convert(write_folder(tmp_path / "source", RAW, TENSORS | extra), tmp_path / "target")
    assert_holds(tmp_path / "target")


def test_places_that_cannot_be_targets(tmp_path):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        convert(source, tmp_path / "file" / "deep" / "target")
    with pytest.raises(InputError, match="not a converted checkpoint"):
        convert(source, tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not a converted checkpoint"):
        convert(source, tmp_path / "folder")
    with pytest.raises(InputError, match="does not exist"):
        convert(tmp_path / "nothing", tmp_path / "target")
    with pytest.raises(InputError, match="neither"):
        convert(tmp_path / "file", tmp_path / "target")


def test_a_full_disk_leaves_nothing(tmp_path):
    """No file may grow beyond 20 kB in a child process: a write fails as on a full disk."""
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    limited = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from jaxdepth.cli import main
sys.exit(main(["convert", *sys.argv[1:]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", limited, source, tmp_path / "target"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert errors == [
        f"jaxdepth: error: cannot write {tmp_path / 'target'} (File too large): "
        "free some space or permit it"
    ]
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_load_refuses_what_is_no_checkpoint(tmp_path):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    with pytest.raises(InputError, match="jaxdepth convert"):
        jaxdepth.load(source)
    with pytest.raises(InputError, match="jaxdepth convert"):
        jaxdepth.load(tmp_path / "nothing")


def rewrite_manifest(path, change):
    """Changes jaxdepth.json as one would who also knows its digest."""
    content = json.loads((path / checkpoint.MANIFEST).read_text())
    change(content)
    del content["sha256"]
    content["sha256"] = checkpoint._own_digest(content)
    (path / checkpoint.MANIFEST).write_text(json.dumps(content))


def test_load_notices_damage(tmp_path):
    target = tmp_path / "target"
    convert(write_folder(tmp_path / "source", RAW, TENSORS), target)
    manifest = target / checkpoint.MANIFEST
    good = manifest.read_text()
    manifest.write_text(good.replace('"chunk": 0', '"chunk": 1', 1))
    with pytest.raises(InputError, match=r"jaxdepth.json is damaged"):
        jaxdepth.load(target)
    manifest.write_text(good)
    rewrite_manifest(target, lambda c: c["leaves"]["layers.2.q"].update(sha256="0" * 64))
    with pytest.raises(InputError, match=r"layers.2.q is not what was converted"):
        jaxdepth.load(target)
    rewrite_manifest(target, lambda c: c["leaves"].pop("layers.2.q"))
    with pytest.raises(InputError, match=r"layers.2.q"):
        jaxdepth.load(target)
    manifest.write_text(good)
    data = max((target / "weights").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(InputError, match="convert again"):
        jaxdepth.load(target)


def test_load_notices_changed_small_files(tmp_path):
    target = tmp_path / "target"
    convert(write_folder(tmp_path / "source", RAW, TENSORS), target)
    config = (target / "config.json").read_text()
    (target / "config.json").write_text(config.replace("10000.0", "10001.0"))
    assert (target / "config.json").read_text() != config
    with pytest.raises(InputError, match=r"config.json is not what was converted"):
        jaxdepth.load(target)
    (target / "config.json").write_text(config)
    (target / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(InputError, match=r"chat_template.jinja is not what was converted"):
        jaxdepth.load(target)


def test_unpermute_undoes_what_llama_cpp_does():
    heads, rows, columns = 3, 24, 5
    original = np.arange(rows * columns).reshape(rows, columns)
    halves = original.reshape(heads, 2, rows // heads // 2, columns)
    permuted = halves.swapaxes(1, 2).reshape(rows, columns)
    assert not np.array_equal(permuted, original)
    assert np.array_equal(unpermute(permuted, heads), original)


# GGUF


@pytest.mark.parametrize("tied", [False, True])
def test_gguf_gives_the_same_parameters(tmp_path, tied):
    raw = raw_config(tie_word_embeddings=tied, head_dim=24)
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    convert(write_gguf(tmp_path / "m.gguf", raw, tensors), tmp_path / "target")
    assert_holds(tmp_path / "target", tensors, raw)
    model, _ = jaxdepth.load(tmp_path / "target")
    logits = jaxdepth.exit_logits(model, *prompts(), 4)
    expected = jaxdepth.exit_logits(model_of(raw), *prompts(), 4)
    assert np.abs(np.asarray(logits) - np.asarray(expected)).max() < 1e-5


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
        ({"tensors": TENSORS | {"rope_freqs.weight": np.ones(8, np.float32)}}, "RoPE"),
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
