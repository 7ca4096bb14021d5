"""The wrong expression of early Mistral uploads: mended as transformers does if it is asked to."""

import json

import numpy as np
import pytest
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import TEXTS, byte_level, wrap
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.convert import convert
from jaxdepth.weights.gguf.byte_level import SPLITS
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_difference


def make(folder, expression=SPLITS["llama-bpe"], specials=("<s>", "</s>", "[INST]"), **config):
    backend = byte_level(list(specials))
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    raw = raw_config(vocab_size=910, num_hidden_layers=1, transformers_version="4.50.0", **config)
    write_folder(folder, raw, hf_tensors(ModelConfig.from_hf(raw)))
    wrap(backend, None, "<s>", "</s>").save_pretrained(folder)
    return folder


def texts():
    rng = np.random.default_rng(0)
    pieces = ["I'll", "HTTPServer", "don't ", "1234", "a/b\n/", "é", "  ", *TEXTS[0].split(" ")]
    return ["".join(rng.choice(pieces, rng.integers(1, 20))) for _ in range(200)]


def test_ids_are_those_of_the_mended_expression(tmp_path, capsys):
    source = make(tmp_path / "source")
    expected, wrong = (AutoTokenizer.from_pretrained(source) for _ in range(2))
    # What transformers does with `fix_mistral_regex` to vocabularies of more than 100,000 tokens.
    patch = type(expected)._patch_mistral_regex
    patch(expected.backend_tokenizer, str(source), is_local=True, fix_mistral_regex=True)
    assert convert(source, tmp_path / "target")
    assert "splits text by a wrong expression" in capsys.readouterr().err
    _, tokenizer = jaxdepth.load(tmp_path / "target")
    ids = [tokenizer(text)["input_ids"] for text in texts()]
    assert ids == [expected(text)["input_ids"] for text in texts()]
    assert ids != [wrong(text)["input_ids"] for text in texts()]
    assert not convert(source, tmp_path / "target")  # it is known again
    config = json.loads((source / "tokenizer.json").read_text())
    del config["model"]["merges"][50:]
    (source / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="was converted when the tokenizer of"):
        convert(source, tmp_path / "target")


@pytest.mark.parametrize(
    "change",
    [
        {"expression": SPLITS["tekken"]},
        {"model_type": "llama"},
        {"specials": ("<s>", "</s>", "[INST]", "42")},  # the vocabulary of another model
        {"specials": ("<s>", "</s>")},
    ],
)
def test_others_keep_theirs(tmp_path, capsys, change):
    source = make(tmp_path / "source", **change)
    assert convert(source, tmp_path / "target")
    assert "expression" not in capsys.readouterr().err
    _, tokenizer = jaxdepth.load(tmp_path / "target")
    theirs = AutoTokenizer.from_pretrained(source)
    assert tokenizer_difference(tokenizer, theirs) is None
