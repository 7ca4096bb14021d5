"""More tokens than the embedding has rows: what nothing needs is left out, in text too."""

import pytest
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, byte_level
from transformers import PreTrainedTokenizerFast

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.weights.convert import convert
from jaxdepth.weights.huggingface.spare_tokens import without_spare_tokens

RAW = raw_config(vocab_size=901)  # a row for "Zurich", none for what comes after it
TEXT = "In Zurich a [PAD] and python"


def make(template=CHATML, **special):
    backend = byte_level(["<|im_start|>", "<|im_end|>"])
    backend.add_tokens(["Zurich", "python"])
    special = {"eos_token": "<|im_end|>", "pad_token": "[PAD]"} | special
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


def test_a_padding_token_that_the_model_does_not_have(tmp_path):
    source = write_folder(tmp_path / "source", RAW, hf_tensors(ModelConfig.from_hf(RAW)))
    whole = make()
    whole.save_pretrained(source)
    assert len(whole) == 903
    convert(source, tmp_path / "target")
    _, tokenizer = jaxdepth.load(tmp_path / "target")
    assert len(tokenizer) == 901
    assert tokenizer.pad_token is None
    assert tokenizer.eos_token == "<|im_end|>"
    encoder = PromptEncoder(tokenizer)
    assert max(encoder.encode(TEXT)) == 900
    assert tokenizer.decode(encoder.encode_text(TEXT)) == TEXT
    plain = "In Zurich"
    assert encoder.encode(plain) == PromptEncoder(whole).encode(plain)
    assert without_spare_tokens(tokenizer, 901, "it") is tokenizer


@pytest.mark.parametrize(
    ("size", "special", "needed"),
    [
        (902, {"eos_token": "[PAD]"}, r"\[PAD\]"),
        (902, {"template": CHATML + "{# [PAD] #}"}, r"\[PAD\]"),
        (899, {}, ""),  # a word of the vocabulary
    ],
    ids=["end", "template", "word"],
)
def test_tokens_that_are_needed(size, special, needed):
    with pytest.raises(InputError, match=rf"it: .* {size}, none for .*{needed}.* not belong"):
        without_spare_tokens(make(**special), size, "it")
