"""A tokenizer that is there as vocab.json and merges.txt only: the one that transformers makes."""

import json

import numpy as np
import pytest
from folders.hub import hub_cache
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, TEXTS, byte_level
from transformers import AutoTokenizer

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.study.inspection.inspect import inspect
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import export
from jaxdepth.weights.huggingface.folder_tokenizer import load_folder_tokenizer
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_difference

RAW = raw_config(model_type="llama", vocab_size=910, num_hidden_layers=1)
ADDED = ["<|im_start|>", "<|im_end|>"]
SPEC = json.loads(byte_level(["<|endoftext|>"]).to_str())["model"]


def write(file, content):
    file.write_text(json.dumps(content))


def make(folder, kind="Qwen2Tokenizer", vocabulary=SPEC["vocab"], **more):
    write_folder(folder, RAW, hf_tensors(ModelConfig.from_hf(RAW)))
    write(folder / "vocab.json", vocabulary)
    lines = [" ".join(merge) for merge in SPEC["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    said = {"tokenizer_class": kind, "eos_token": "<|im_end|>", "bos_token": None} | more
    added = {len(SPEC["vocab"]) + n: {"content": t, "special": True} for n, t in enumerate(ADDED)}
    said |= {"added_tokens_decoder": added, "chat_template": CHATML}
    write(folder / "tokenizer_config.json", said)
    return folder


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "GPT2Tokenizer"])
def test_it_is_what_transformers_makes_of_the_folder(tmp_path, monkeypatch, kind):
    source = make(tmp_path / "source", kind)
    expected = AutoTokenizer.from_pretrained(source)
    assert expected.is_fast
    assert dict(inspect(source).rows)["tokenizer"].startswith(
        "902 tokens, BOS none, EOS <|im_end|>"
    )
    if kind == "GPT2Tokenizer":
        hub_cache(monkeypatch, tmp_path, source)
        source = "some/model"
    convert(source, tmp_path / "target")
    _, tokenizer = jaxdepth.load(tmp_path / "target")
    assert tokenizer_difference(tokenizer, expected) is None
    assert tokenizer.chat_template == CHATML
    rng = np.random.default_rng(0)
    pieces = [*ADDED, *" \t\n0123'.,-_é你😀", "I'll", "  ", *" ".join(TEXTS[:20]).split(" ")]
    for _ in range(300):
        text = "".join(rng.choice(pieces, rng.integers(1, 30)))
        ids = tokenizer(text)["input_ids"]
        assert ids == expected(text)["input_ids"]
        assert tokenizer.decode(ids) == expected.decode(ids)
    export(tmp_path / "target", tmp_path / "out")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer_difference(exported, expected) is None


def test_converting_again_notices_another_vocabulary(tmp_path):
    source, target = make(tmp_path / "source"), tmp_path / "target"
    assert convert(source, target) is True
    assert convert(source, target) is False
    config = json.loads((source / "tokenizer_config.json").read_text())
    write(source / "tokenizer_config.json", config | {"chat_template": CHATML + "{# mine #}"})
    with pytest.raises(InputError, match="differed in chat template: name"):
        convert(source, target)
    write(source / "tokenizer_config.json", config)
    write(source / "generation_config.json", {"eos_token_id": 1})
    with pytest.raises(InputError, match=r"when generation_config.json of .* had other content"):
        convert(source, target)
    (source / "generation_config.json").unlink()
    merges = (source / "merges.txt").read_text().splitlines()
    (source / "merges.txt").write_text("\n".join(merges[:-400]))
    with pytest.raises(InputError, match="differed in the ids of a text: name"):
        convert(source, target)


BAD = {
    "another class": ({"kind": "MBartTokenizer"}, "has vocab.json and merges.txt but no tokenizer"),
    "no class": ({"kind": None}, "has vocab.json and merges.txt but no tokenizer.json"),
    "an id": ({"vocabulary": SPEC["vocab"] | {"zz": 10**9}}, "has a token with the id 1000000000"),
    "numbers": ({"vocabulary": {"a": "b"}}, "cannot be read"),
    "a list": ({"vocabulary": ["a"]}, "vocab.json holds a list, expected an object"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused(tmp_path, kind):
    changes, says = BAD[kind]
    source = make(tmp_path / "source", **changes)
    with pytest.raises(InputError, match=says):
        convert(source, tmp_path / "target")
    assert not list(tmp_path.glob("*target*"))


def test_merges_that_are_none(tmp_path):
    source = make(tmp_path / "source")
    (source / "merges.txt").write_text("a b\nq\n")
    with pytest.raises(InputError, match="cannot be read"):
        load_folder_tokenizer(source)
