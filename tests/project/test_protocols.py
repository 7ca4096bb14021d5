"""The configurations that stand for other people's models and protocols, on tiny ones."""

import json

import pytest
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import build

from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.study.run_directory import read_frame, read_record

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_the_protocol_of_7b_models_runs_end_to_end(tmp_path):
    """32 layers, as it expects, of a tiny width; all of its exits, a few of its prompts."""
    tokenizer = build("mistral v0.3")
    raw = raw_config(num_hidden_layers=32, hidden_size=16, intermediate_size=24, head_dim=4,
                     vocab_size=len(tokenizer))  # fmt: skip
    source = tmp_path / "source"
    write_folder(source, raw, hf_tensors(ModelConfig.from_hf(raw)))
    tokenizer.save_pretrained(source)
    assert main(["convert", str(source), str(tmp_path / "model")]) == 0
    out = tmp_path / "run"
    args = ["sweep", tmp_path / "model", "--config", "truncation_7b", "--out", out, "--limit", 3]
    assert main(list(map(str, [*args, "--max-new-tokens", 4]))) == 0
    settings = read_record(out)["settings"]
    assert settings["exits"] == [8, 12, 16, 20, 24, 27, 30, 32]
    assert settings["dtype"] == "bfloat16"
    assert settings["max_new_tokens"] == 4
    assert len(read_frame(out, "generations")) == 3 * 8
    assert json.loads((out / "run.json").read_text())["tables"]["curve"]["sha256"]
