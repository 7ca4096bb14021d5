"""A checkpoint's tokenizer is the source's: every file that transformers reads is kept."""

import json
import shutil

import numpy as np
import pytest
from folders.hub import hub_cache
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, byte_level, wrap
from transformers import AutoTokenizer

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.weights import checkpoint
from jaxdepth.weights.convert import convert
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_difference

RAW = raw_config(vocab_size=960)
TENSORS = hf_tensors(ModelConfig.from_hf(RAW))
ADDED = ["<|im_start|>", "<|im_end|>", "Zürich", "<extra>"]


@pytest.fixture
def source(tmp_path):
    """A model whose tokenizer.json lacks what `added_tokens.json` has, as older tools wrote it."""
    folder = write_folder(tmp_path / "source", RAW, TENSORS)
    backend = byte_level(["<|endoftext|>"])
    backend.save(str(folder / "tokenizer.json"))
    size = backend.get_vocab_size()
    write(folder / "added_tokens.json", {t: size + i for i, t in enumerate(ADDED)})
    write(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>"})
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    write(folder / "tokenizer_config.json", config | {"chat_template": CHATML})
    return folder


def write(file, content):
    file.write_text(json.dumps(content))


def same_as_transformers(source, tokenizer):
    """Whether a tokenizer does what the source's does, and how it opens a conversation."""
    expected = AutoTokenizer.from_pretrained(source)
    text = "".join(f"a {token} b{token}c" for token in expected.added_tokens_decoder.values())
    assert tokenizer(str(text))["input_ids"] == expected(str(text))["input_ids"]
    assert tokenizer.get_vocab() == expected.get_vocab()
    assert tokenizer.chat_template == expected.chat_template
    return tokenizer_difference(tokenizer, expected) is None


def test_added_tokens_are_kept(source, tmp_path):
    convert(source, tmp_path / "target")
    _, tokenizer = jaxdepth.load(tmp_path / "target")
    assert same_as_transformers(source, tokenizer)
    ids = PromptEncoder(tokenizer).encode("In Zürich")
    messages = [{"role": "user", "content": "In Zürich"}]
    expected = AutoTokenizer.from_pretrained(source).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True
    )
    assert ids == expected["input_ids"]
    assert set(ids) & {tokenizer.convert_tokens_to_ids(t) for t in ADDED[:2]}


OTHERS = {
    "chat_template.jinja": "{# another #}" + CHATML,
    "additional_chat_templates/tool_use.jinja": "{{ 'tools' }}",
    "tokenizer.4.0.json": None,  # a copy of tokenizer.json, which the config names
    "vocab.json": "{}",
    "merges.txt": "#version",
    "tokenizer.model": "x",
    "generation_config.json": "{}",
}


def add_others(source):
    for name, content in OTHERS.items():
        file = source / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content or (source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    names = ["tokenizer.json", "tokenizer.4.0.json"]
    write(source / "tokenizer_config.json", config | {"fast_tokenizer_files": names})


@pytest.mark.parametrize("from_hub", [False, True])
def test_all_files_are_kept_and_guarded(source, tmp_path, monkeypatch, from_hub):
    add_others(source)
    if from_hub:
        hub_cache(monkeypatch, tmp_path, source)
    convert("some/model" if from_hub else source, tmp_path / "target")
    target = tmp_path / "target"
    for name in [*OTHERS, "added_tokens.json", "special_tokens_map.json"]:
        assert (target / name).read_bytes() == (source / name).read_bytes(), name
        assert name in checkpoint.read_manifest(target)["files"]
    _, tokenizer = jaxdepth.load(target)
    assert same_as_transformers(source, tokenizer)
    assert PromptEncoder(tokenizer).has_template
    for name in ("additional_chat_templates/tool_use.jinja", "added_tokens.json"):
        kept = (target / name).read_bytes()
        (target / name).write_bytes(kept + b" ")
        with pytest.raises(InputError, match=f"{name} is not what was converted"):
            jaxdepth.load(target)
        (target / name).write_bytes(kept)
    (target / "additional_chat_templates/new.jinja").write_text("x")
    with pytest.raises(InputError, match=r"new.jinja is not what was converted"):
        jaxdepth.load(target)


def test_a_single_file_on_the_hub_counts(source, tmp_path, monkeypatch):
    """Where a model is saved twice, the same file is read as from a folder."""
    index = {"weight_map": dict.fromkeys(TENSORS, "model-00001-of-00001.safetensors")}
    write(source / "model.safetensors.index.json", index)
    hub_cache(monkeypatch, tmp_path, source)
    convert("some/model", tmp_path / "target")
    model, _ = jaxdepth.load(tmp_path / "target")
    np.testing.assert_array_equal(model.embed[...], TENSORS["model.embed_tokens.weight"])


def test_a_template_beside_the_tokenizer_of_a_processor(source, tmp_path):
    config = json.loads((source / "tokenizer_config.json").read_text())
    write(source / "tokenizer_config.json", config | {"chat_template": None})
    write(source / "chat_template.json", {"chat_template": CHATML})
    convert(source, tmp_path / "target")
    _, tokenizer = jaxdepth.load(tmp_path / "target")
    assert tokenizer.chat_template == CHATML
    write(source / "chat_template.json", {"template": CHATML})
    with pytest.raises(InputError, match=r"chat_template.json has no chat_template"):
        convert(source, tmp_path / "other")


def test_a_copy_that_differs_is_noticed(source, tmp_path, monkeypatch):
    """Conversion compares by itself: here a file is lost on the way."""
    copy = shutil.copyfile

    def forgetful(file, target):
        return None if target.name == "added_tokens.json" else copy(file, target)

    monkeypatch.setattr(shutil, "copyfile", forgetful)
    with pytest.raises(InputError, match="copy of its tokenizer differs from it in vocabulary"):
        convert(source, tmp_path / "target")
    assert not list(tmp_path.glob("*target*"))


def test_what_makes_two_tokenizers_different():
    def make(words=(), template=CHATML, prefix=False):
        backend = byte_level(["<s>"])
        if prefix:
            backend.pre_tokenizer.add_prefix_space = True
        backend.add_tokens(list(words))
        return wrap(backend, template, "<s>", "<s>")

    assert tokenizer_difference(make(), make()) is None
    assert tokenizer_difference(make(), make(["x y"])) == "vocabulary"
    assert tokenizer_difference(make(), make(template=None)) == "chat template"
    assert tokenizer_difference(make(), make(prefix=True)) == "the ids of a text"
    other = make()
    other.pad_token = "<s>"
    assert tokenizer_difference(make(), other) == "special tokens"


def test_converting_again_after_the_template_was_changed(source, tmp_path):
    target = tmp_path / "target"
    assert convert(source, target) is True
    assert convert(source, target) is False
    (source / "chat_template.jinja").write_text(CHATML + "{# mine #}")
    with pytest.raises(InputError, match=r"chat_template.jinja of .* had other content"):
        convert(source, target)


@pytest.mark.parametrize("form", ["tokenizer.model", "tekken.json", "vocab.json", "vocab.txt"])
def test_tokenizers_in_other_forms_only_are_refused(source, tmp_path, form):
    (source / "tokenizer.json").rename(source / form)
    with pytest.raises(InputError, match=f"{form} .*no tokenizer.json.*--no-tokenizer"):
        convert(source, tmp_path / "target")
    convert(source, tmp_path / "target", with_tokenizer=False)
