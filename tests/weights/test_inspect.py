"""`jaxdepth inspect`: the description of each kind of file, escaped for the terminal."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from gguf_files import write_gguf
from safetensors.numpy import save_file
from tiny import hf_tensors, raw_config, write_folder

from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.tuned import Form
from jaxdepth.study.inspection.description import format_bytes
from jaxdepth.study.run_directory import Run
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import Adapter, save_adapter

HOSTILE = "\x1b[2J[red]\u202egone\n"


def inspected(capsys, path) -> str:
    """The output of the command, its lines joined."""
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert all(len(line) < 180 for line in out.splitlines())
    return " ".join(out.split())


def refused(capsys, path) -> str:
    assert main(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("jaxdepth: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.rstrip("\n").isprintable()
    return captured.err


@pytest.fixture
def source(tmp_path):
    raw = raw_config(sliding_window=32)
    return write_folder(tmp_path / "source", raw, hf_tensors(ModelConfig.from_hf(raw)), shards=2)


def test_a_checkpoint(tiny_path, capsys):
    output = inspected(capsys, tiny_path)
    manifest = checkpoint.read_manifest(tiny_path)
    parameters = sum(np.prod(record["shape"]) for record in manifest["leaves"].values())
    tokenizer = checkpoint.load_tokenizer(tiny_path)
    (end,) = checkpoint.end_tokens(tiny_path, tokenizer)
    (file,) = manifest["source"]["files"].values()
    for expected in (
        f"{tiny_path}: a checkpoint of jaxdepth",
        "family mistral",
        "4 layers, width 64, 4 heads of 16 on 2 of keys and values, MLP 112",
        f"parameters {parameters:,}, the head apart from",
        "exits 1 to 4",
        "positions 256; window: none",
        "RoPE theta 10,000",
        f"weights {format_bytes(4 * parameters)} of float32",
        f"fingerprint {manifest['fingerprint']}",
        "39 arrays in 1 chunk",
        f"made of {manifest['source']['path']}",
        f"model.safetensors: {format_bytes(file['bytes'])}, sha256 {file['sha256']}",
        f"made by jaxdepth {manifest['jaxdepth']}",
        f"{len(tokenizer)} tokens, BOS",
        f"EOS {tokenizer.eos_token} ({tokenizer.eos_token_id}); answers end with",
        f"({end})",
        f"chat template {len(tokenizer.chat_template)} characters: "
        f"{tokenizer.chat_template[:20].split()[0]}",
    ):
        assert expected in output, expected


def test_sizes_in_words():
    output = [format_bytes(n) for n in (999, 1000, 999_499, 999_500, 2_515_000_000)]
    assert output == ["999 bytes", "1 kB", "999 kB", "1 MB", "2.52 GB"]


def test_a_damaged_checkpoint_is_one_line(tiny_path, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_path, copy)
    (copy / "chat_template.jinja").write_text(HOSTILE)
    assert "chat_template.jinja is not what was converted" in refused(capsys, copy)


def test_a_hostile_chat_template_is_truncated_and_escaped(tiny_path, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_path, copy)
    (copy / "chat_template.jinja").write_text(HOSTILE + "x" * 10**5)
    manifest = json.loads((copy / checkpoint.MANIFEST).read_text())
    manifest = {k: v for k, v in manifest.items() if k not in ("files", "sha256")}
    (copy / checkpoint.MANIFEST).unlink()
    manifest["source"]["path"] = HOSTILE
    checkpoint.write_manifest(copy, manifest)
    output = inspected(capsys, copy)
    assert r"made of \x1b[2J[red]\u202egone" in output
    assert r"characters: \x1b[2J[red]\u202egone\nxxx" in output
    assert len(output) < 2500


def test_a_source_is_described_by_its_headers(source, tmp_path, capsys):
    output = inspected(capsys, source)
    for expected in (
        "a Hugging Face folder, not converted",
        "window: 32 keys, in all of 4 layers",
        "tensors 39 of F32",
        "model-00002-of-00002.safetensors: ",
        "tokenizer none",
        "converts yes, to ",
    ):
        assert expected in output, expected
    config = ModelConfig.from_hf(raw_config())
    tensors = hf_tensors(config)
    missing = tensors.pop("model.norm.weight")
    write_folder(tmp_path / "lacks", raw_config(), tensors)
    assert "converts no: " in inspected(capsys, tmp_path / "lacks")
    file = write_gguf(tmp_path / "a.gguf", raw_config(), tensors | {"model.norm.weight": missing})
    output = inspected(capsys, file)
    assert "a GGUF file, not converted" in output
    assert "family llama" in output
    assert "tensors 39 of F32" in output
    assert "converts yes, to " in output


def test_an_adapter(tmp_path, capsys):
    params = {"layers.q.a": np.ones((2, 64, 3)), "layers.q.b": np.ones((2, 3, 64))}
    made = {"settings": {"method": HOSTILE, "seed": 0}, "versions": {"jax": "1.2"}}
    adapter = Adapter(Form((1, 2), ("q",), 3, 6.0), params, "b" * 64, ("<|yes|>",), made)
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, adapter)
    output = inspected(capsys, file)
    for expected in (
        "an adapter of jaxdepth",
        "LoRA, rank 3, alpha 6.0",
        "of q of layers 2-3",
        "2, 768 numbers, 1.54 kB of bfloat16",
        "base " + "b" * 64,
        "new tokens <|yes|>",
        r"method \x1b[2J[red]\u202egone\n, seed 0",
        "made by jax 1.2",
    ):
        assert expected in output, expected
    output = inspected(capsys, "builtin:lens")
    assert "form a lens, rank 64" in output
    assert "of exits 1-29" in output
    assert "lens.md" in output
    file.write_bytes(file.read_bytes().replace(b'\\"layers\\": [1, 2]', b'\\"layers\\": {1: 2}'))
    assert "header is damaged" in refused(capsys, file)


def test_a_run(tmp_path, capsys):
    path = tmp_path / "run"
    settings = {"command": "sweep", "judge": HOSTILE, "model_fingerprint": "c" * 64, "seed": 0}
    run = Run.open(path, settings, {"model": "somewhere", "device": "cpu", "mesh": "one device"})
    run.write_table("prompts", pa.table({"a": [1, 2]}))
    run.write_file("directions.safetensors", lambda p: p.write_bytes(b"123"))
    for number in range(2):
        run.write_part("first_token", number, pa.table({"a": [number]}))
    output = inspected(capsys, path)
    for expected in (
        f"{path}: a run of jaxdepth command sweep",
        "model somewhere, fingerprint " + "c" * 64,
        "run on cpu, one device",
        r"judge \x1b[2J[red]\u202egone\n, model_fingerprint cccccccccccc, seed 0",
        "prompts.parquet: 2 rows, ",
        "directions.safetensors: 3 bytes, matches its digest",
        "unfinished parts/first_token: 2 chunks, ",
        "match their digests",
    ):
        assert expected in output, expected
    (path / "directions.safetensors").write_bytes(b"124")
    part = next((path / "parts" / "first_token").glob("000001-*"))
    part.write_bytes(part.read_bytes() + b"x")
    (path / "prompts.parquet").unlink()
    output = inspected(capsys, path)
    assert "a run of jaxdepth, with DAMAGE" in output
    assert "prompts.parquet: MISSING" in output
    assert "directions.safetensors: 3 bytes, DAMAGED" in output
    assert f"DAMAGED: {part.name}" in output
    (path / "run.json").write_text("{")
    assert "run.json is not valid JSON" in refused(capsys, path)


def test_anything_else_is_one_line(tmp_path, capsys):
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "other.safetensors").write_text("x")
    save_file({"a": np.ones(2)}, tmp_path / "plain.safetensors")
    odd = write_folder(tmp_path / "odd", raw_config(), {})
    for shard in ("model-1.safetensors", "model-2.safetensors"):
        (odd / "model.safetensors").unlink(missing_ok=True)
        save_file({HOSTILE: np.ones(2, np.float32)}, odd / shard)
    assert "is nothing to inspect" in refused(capsys, tmp_path / "file.txt")
    assert "is nothing to inspect" in refused(capsys, tmp_path)
    assert "does not exist" in refused(capsys, tmp_path / "HuggingFaceTB/SmolLM2-135M")
    assert "cannot be read" in refused(capsys, tmp_path / "other.safetensors")
    assert "is not an adapter of jaxdepth" in refused(capsys, tmp_path / "plain.safetensors")
    assert r"tensor \x1b[2J[red]\u202egone\n is in both" in refused(capsys, odd)
