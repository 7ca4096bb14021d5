"""Conversion: every layout of a source, and what stops a conversion before it is done."""

import subprocess
import sys

import numpy as np
import pytest
from folders.hub import hub_cache
from gguf_files import write_gguf
from tiny import hf_tensors, model_of, prompts, raw_config, write_folder
from tiny_source import CONFIG, Q3, RAW, TENSORS, assert_holds

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.runtime.preemption import Stopped
from jaxdepth.weights import checkpoint
from jaxdepth.weights import convert as convert_module
from jaxdepth.weights.convert import convert
from jaxdepth.weights.gguf.source import unpermute
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map


@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (3, False)])
def test_every_layout_gives_the_same_parameters(tmp_path, shards, index):
    source = write_folder(tmp_path / "source", RAW, TENSORS, shards, index)
    assert convert(source, tmp_path / "a" / "b" / "target")
    assert_holds(tmp_path / "a" / "b" / "target")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["target"]


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


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_in_the_hubs_cache(tmp_path, monkeypatch, shards):
    source = write_folder(tmp_path / "source", RAW, TENSORS, shards, index=shards > 1)
    hub_cache(monkeypatch, tmp_path, source)
    convert("some/model", tmp_path / "target")
    assert_holds(tmp_path / "target")
    manifest = checkpoint.read_manifest(tmp_path / "target")
    assert manifest["source"]["path"] == "some/model"
    with pytest.raises(InputError, match=r"some/other is not a local folder or file"):
        convert("some/other", tmp_path / "other")


def test_unpermute_undoes_what_llama_cpp_does():
    heads, rows, columns = 3, 24, 5
    original = np.arange(rows * columns).reshape(rows, columns)
    halves = original.reshape(heads, 2, rows // heads // 2, columns)
    permuted = halves.swapaxes(1, 2).reshape(rows, columns)
    assert not np.array_equal(permuted, original)
    assert np.array_equal(unpermute(permuted, heads), original)


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


def written(monkeypatch):
    """The numbers of the chunks that are written from now on."""
    numbers, real = [], checkpoint.write_chunk

    def spy(folder, number, arrays, records):
        numbers.append(number)
        real(folder, number, arrays, records)

    monkeypatch.setattr(checkpoint, "write_chunk", spy)
    return numbers


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


# Stopped, or with nowhere to write


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


def raise_after(calls, error):
    left = [calls]

    def check():
        left[0] -= 1
        if not left[0]:
            raise error

    return check


def test_a_conversion_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    monkeypatch.setattr(convert_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(convert_module.preemption, "raise_if_stopped_here", raise_after(5, Stopped))
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


def test_what_an_older_conversion_left_does_not_get_in(tmp_path):
    partial = tmp_path / ".target.elsewhere-7.partial"
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


def test_too_little_space_is_found_before_anything_is_written(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    usage = convert_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda path: usage)
    numbers = written(monkeypatch)
    with pytest.raises(InputError, match=r"needs .* GB, there are 1e-06 GB"):
        convert(source, tmp_path / "target")
    assert not numbers
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("RLIMIT_FSIZE, (20_000, 20_000)", "(File too large): free some space or permit it"),
        ("RLIMIT_NOFILE, (few, few)", "(Too many open files): allow more of them (ulimit -n)"),
        ("RLIMIT_NOFILE, (few + 4,) * 2", "(Too many open files): allow more of them (ulimit -n)"),
    ],
    ids=["disk", "few files", "more files"],
)
def test_a_limit_leaves_nothing(tmp_path, limit, says):
    """A child process whose files may not grow beyond 20 kB, as on a full disk, or be many."""
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    limited = f"""
import os, resource, sys
from jaxdepth.cli import main
few = len(os.listdir("/dev/fd")) + 4
resource.setrlimit(resource.{limit})
sys.exit(main(["convert", *sys.argv[1:]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", limited, source, tmp_path / "target"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("jaxdepth:")]
    assert errors == [f"jaxdepth: error: cannot write {tmp_path / 'target'} {says}"]
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
