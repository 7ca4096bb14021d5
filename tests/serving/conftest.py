"""A tiny random model with the special tokens of configs/tuned.toml, as an adapter brings them."""

from pathlib import Path

import pytest
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, byte_level, wrap

from jaxdepth.model.config import ModelConfig
from jaxdepth.serving.respond import open_responder
from jaxdepth.weights.convert import convert

MARKERS = ("<|think|>", "<|/think|>", "<|refuse|>", "<|partial|>", "<|comply|>")
# How much is decoded, so that few programs of few steps serve all tests.
SMALL = {"protocol": "tuned", "exit": 3, "thought_tokens": 4, "answer_tokens": 6}


@pytest.fixture(scope="session")
def deciding_path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deciding")
    backend = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *MARKERS])
    tokenizer = wrap(backend, CHATML, "<|im_start|>", "<|im_end|>")
    raw = raw_config(vocab_size=len(tokenizer), max_position_embeddings=512)
    tensors = hf_tensors(ModelConfig.from_hf(raw), seed=2)
    source = write_folder(folder / "source", raw, tensors)
    tokenizer.save_pretrained(source)
    convert(source, folder / "deciding")
    return folder / "deciding"


@pytest.fixture(scope="module")
def responder(deciding_path):
    return open_responder(deciding_path, **SMALL, lanes=4, max_prompt_tokens=160)


@pytest.fixture(scope="module")
def prompts_of_one_length():
    """All prompts padded alike: a program for each length would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdepth.serving.responder._SHORTEST", 160)
        yield
