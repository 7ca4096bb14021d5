"""Prompts are written with the tokenizer and the chat template that a PEFT folder brings."""

import json

import pytest
from folders.peft import write_adapter
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, byte_level
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.weights.adapter import adapter_digest, brings_tokenizer
from jaxdepth.weights.checkpoint import end_tokens
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import export
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_difference

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}assistant:"
RAW = raw_config(vocab_size=910)
MESSAGES = [{"role": "user", "content": "Hi"}]


def make(template, eos="<|endoftext|>", words=(), specials=SPECIALS):
    backend = byte_level(list(specials))
    backend.add_tokens(list(words))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, eos_token=eos)


@pytest.fixture(scope="module", params=[PLAIN, None], ids=["chat", "base"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    source = write_folder(folder / "source", RAW, hf_tensors(ModelConfig.from_hf(RAW)))
    make(request.param).save_pretrained(source)
    convert(source, folder / "base")
    return folder / "base"


@pytest.fixture
def adapter(tmp_path):
    write_adapter(tmp_path / "peft", [("q", 1)])
    return tmp_path / "peft"


def ids_of(tokenizer):
    return tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]


@pytest.mark.parametrize("in_config", [False, True])
def test_a_whole_tokenizer(base, adapter, in_config):
    """As trainers save it; older ones write the template into the config."""
    make(CHATML, "<|im_end|>", ["Zürich"]).save_pretrained(adapter)
    if in_config:
        (adapter / "chat_template.jinja").unlink()
        config = json.loads((adapter / "tokenizer_config.json").read_text())
        (adapter / "tokenizer_config.json").write_text(
            json.dumps(config | {"chat_template": CHATML})
        )
    _, tokenizer = jaxdepth.load(base, adapter=adapter)
    expected = AutoTokenizer.from_pretrained(adapter)
    assert tokenizer_difference(tokenizer, expected) is None
    assert PromptEncoder(tokenizer).encode("Hi") == ids_of(expected)
    assert end_tokens(base, tokenizer) == (2,)


@pytest.mark.parametrize("form", ["file", "config"])
def test_a_template_alone_changes_the_base_tokenizer(base, adapter, form):
    if form == "file":
        (adapter / "chat_template.jinja").write_text(CHATML)
    else:
        config = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
        (adapter / "tokenizer_config.json").write_text(json.dumps(config))
    _, tokenizer = jaxdepth.load(base, adapter=adapter)
    _, own = jaxdepth.load(base)
    assert tokenizer.chat_template == CHATML
    assert tokenizer.get_vocab() == own.get_vocab()
    assert PromptEncoder(tokenizer).encode("Hi") == ids_of(make(CHATML))
    assert tokenizer.eos_token == ("<|endoftext|>" if form == "file" else "<|im_end|>")


def test_an_adapter_without_a_tokenizer_keeps_that_of_the_base(base, adapter):
    _, own = jaxdepth.load(base)
    _, tokenizer = jaxdepth.load(base, adapter=adapter)
    assert tokenizer_difference(tokenizer, own) is None
    assert not brings_tokenizer(str(adapter))


def test_the_digest_covers_the_tokenizer(adapter):
    without = adapter_digest(str(adapter))
    (adapter / "chat_template.jinja").write_text(CHATML)
    assert brings_tokenizer(str(adapter))
    first = adapter_digest(str(adapter))
    (adapter / "chat_template.jinja").write_text(CHATML + " ")
    assert len({without, first, adapter_digest(str(adapter))}) == 3


def test_tokenizers_that_do_not_fit(base, adapter):
    spare = [f"<{i}>" for i in range(20)]
    make(CHATML + "{# <15> #}", "<|im_end|>", spare).save_pretrained(adapter)
    with pytest.raises(InputError, match=r"has 920 tokens, the model only 910, none for <15>:"):
        jaxdepth.load(base, adapter=adapter)
    make(CHATML, "<|im_end|>", specials=[*SPECIALS, "<|more|>"]).save_pretrained(adapter)
    with pytest.raises(InputError, match=r"other ids than the base's for .* for another base"):
        jaxdepth.load(base, adapter=adapter)
    (adapter / "tokenizer.json").rename(adapter / "tokenizer.model")
    with pytest.raises(InputError, match=r"tokenizer.model but no tokenizer.json"):
        jaxdepth.load(base, adapter=adapter)
    (adapter / "tokenizer.model").unlink()
    (adapter / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="holds a list"):
        jaxdepth.load(base, adapter=adapter)


def test_a_base_without_a_tokenizer_takes_that_of_the_adapter(adapter, tmp_path):
    source = write_folder(tmp_path / "s", RAW, hf_tensors(ModelConfig.from_hf(RAW)))
    convert(source, tmp_path / "bare")
    make(CHATML).save_pretrained(adapter)
    _, tokenizer = jaxdepth.load(tmp_path / "bare", adapter=adapter)
    assert tokenizer.chat_template == CHATML
    (adapter / "tokenizer.json").unlink()
    assert jaxdepth.load(tmp_path / "bare", adapter=adapter)[1] is None


def test_an_export_has_the_tokenizer_of_its_adapter(base, adapter, tmp_path):
    make(CHATML, "<|im_end|>", ["Zürich"]).save_pretrained(adapter)
    export(base, tmp_path / "out", str(adapter))
    expected = AutoTokenizer.from_pretrained(adapter)
    assert tokenizer_difference(AutoTokenizer.from_pretrained(tmp_path / "out"), expected) is None
    make(None, "<|im_end|>").save_pretrained(adapter)
    (adapter / "chat_template.jinja").unlink()
    export(base, tmp_path / "none", str(adapter))
    assert AutoTokenizer.from_pretrained(tmp_path / "none").chat_template is None
