"""Every value of a GGUF file's metadata in turn is one that nobody expects there."""

import math

import numpy as np
import pytest
from gguf_files import fields_of, sentencepiece_fields

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.gguf.config import gguf_config
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer

VALUES = [None, -1, 0, 2**64, 1.5, -1.0, math.nan, math.inf, "x", "", [], [1], ["a", "a"], True]
MODEL = {
    "block_count": 2,
    "context_length": 256,
    "embedding_length": 64,
    "feed_forward_length": 112,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 4,
    "rope.freq_base": 1e4,
    "rope.dimension_count": 16,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_beta_fast": 3.0,
    "rope.scaling.attn_factor": 1.0,
    "vocab_size": 96,
}


def refused(work) -> bool:
    """Whether something is refused, in one line; any other error is raised."""
    message = ""
    try:
        work()
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return bool(message)


@pytest.mark.parametrize("make", [fields_of, sentencepiece_fields], ids=["gpt2", "llama"])
def test_tokenizers(make):
    fields = make("llama-bpe") if make is fields_of else make()
    fields |= {"tokenizer.ggml.unknown_token_id": 0, "tokenizer.chat_template": "{{ messages }}"}
    outcomes = []
    for key, value in fields.items():
        for other in VALUES:
            outcomes.append(refused(lambda new={key: other}: gguf_tokenizer(fields | new)))
            if isinstance(value, list):
                new = {key: [*value[:-1], other]}
                outcomes.append(refused(lambda new=new: gguf_tokenizer(fields | new)))
    assert 0.4 < np.mean(outcomes) < 1


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("without", ["attention.key_length", "rope.scaling.type"])
@pytest.mark.parametrize("divisors", [None, np.ones(8), np.arange(8.0)], ids=["none", "one", "bad"])
def test_configs(without, divisors):
    metadata = {f"llama.{key}": value for key, value in MODEL.items() if key != without}
    metadata |= {"general.architecture": "llama", "tokenizer.ggml.bos_token_id": 1}

    def work(new):
        raw = gguf_config(metadata | new, {"token_embd.weight": (96, 64)}, divisors)
        ModelConfig.from_hf(raw)

    outcomes = [refused(lambda n={key: v}: work(n)) for key in metadata for v in VALUES]
    assert np.mean(outcomes) > 0.4
