"""Byte-level BPE from GGUF: how text is split, and the merges."""

import random
import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from gguf_files import fields_of, write_gguf
from tiny import hf_tensors, raw_config

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.gguf.source import GGUFSource
from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer

TEXT = "I'm HERE'S 12345 fooBar\r\n\n  x=  -1/2 //\n/ e\u0301t\u00e9 \u4f60\u597d!"


def test_qwen2_splits_as_transformers_own_class():
    from transformers import Qwen2Tokenizer

    fields = fields_of("qwen2")
    tokens = fields["tokenizer.ggml.tokens"][:-1]
    merges = [tuple(m.split()) for m in fields["tokenizer.ggml.merges"]]
    vocab = {t: i for i, t in enumerate(tokens)}
    theirs = Qwen2Tokenizer(vocab=vocab, merges=merges)
    ours = gguf_tokenizer(fields)
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert ours("e\u0301")["input_ids"] == ours("\u00e9")["input_ids"]  # one letter, either way


def pieces(pre: str) -> list[str]:
    """How the text is split before the merges."""
    split = gguf_tokenizer(fields_of(pre)).backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)
    return [TEXT[start:end] for _, (start, end) in split]


# By hand: llama-bpe takes up to three digits, tekken one, and splits where a small letter meets
# a capital; it takes a slash that begins a line to the marks before it.
SPLIT = {
    "llama-bpe": "I|'m| HERE|'S| |123|45| fooBar|\r\n\n| | x|=| | -|1|/|2| //\n|/| e|\u0301t\u00e9|"
    " \u4f60\u597d|!",
    "tekken": "I|'m| HERE|'S| |1|2|3|4|5| foo|Bar|\r\n\n| | x|=| | -|1|/|2| //\n/| e\u0301t\u00e9| "
    "\u4f60\u597d|!",
}


@pytest.mark.parametrize("pre", SPLIT)
def test_splits_by_hand(pre):
    assert "|".join(pieces(pre)) == SPLIT[pre]


@pytest.mark.parametrize("pre", SPLIT)
def test_words_of_the_vocabulary_are_kept_and_texts_begin_with_bos(pre):
    tokenizer = gguf_tokenizer(fields_of(pre))
    assert tokenizer.tokenize(" HERE") == ["ĠHERE"]
    assert tokenizer.decode(tokenizer(" HERE")["input_ids"]) == "<s> HERE"
    assert tokenizer(" HERE", add_special_tokens=False)["input_ids"] == [
        tokenizer.convert_tokens_to_ids("ĠHERE")
    ]
    without = gguf_tokenizer(fields_of(pre, add_bos_token=False))
    assert without.decode(without(" HERE")["input_ids"]) == " HERE"


def test_other_tokenizers_apply_merges_and_begin_with_bos_if_the_file_says_so():
    assert len(gguf_tokenizer(fields_of("gpt-2")).tokenize(" HERE")) == 5
    assert (
        gguf_tokenizer(fields_of("gpt-2", add_bos_token=True))("f")["input_ids"][0]
        == (fields_of("gpt-2")["tokenizer.ggml.bos_token_id"])
    )


def test_an_unknown_pre_tokenizer_is_refused():
    with pytest.raises(InputError, match=r"'bloom' is not implemented, only smollm.*tekken"):
        gguf_tokenizer(fields_of("bloom"))


# A slow twin of it all: the models' regular expressions in another engine, merges one at a time.

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp applies the expressions of a tokenizer one after another to what is left of a text.
EXPRESSIONS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}|\P{N}+", GPT2],
    "qwen2": [LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")],
    "llama-bpe": [LLAMA3],
    "llama3": [LLAMA3],
    "llama-v3": [LLAMA3],
    "tekken": [TEKKEN],
}
ALPHABET = [
    *"aabBcdefgi01239 '/.\n\r\t_-",
    *("  ", "'s", "'LL", "\u00e9", "e\u0301", "\u4f60", "\u05d0", "\u0661", "\u00bd", "\u2028"),
    *("\u00a0", "\u200b", "\U0001f600", "\U0001f469\u200d\U0001f680", "\x00", "\u01c5", "\u02b0"),
]


@pytest.fixture(scope="module")
def learned() -> tuple[list[str], list[str]]:
    """Tokens and merges of a BPE that learned the documentation without splitting it at all."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*corpus(), "123 1234 12 23 0.5 3.14 2026"] * 2, trainer)
    vocab = backend.get_vocab()
    merges = []
    for token in sorted(vocab, key=vocab.get)[256:]:  # in the order in which they were learned
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [" ".join(c) for c in cuts if max(vocab.get(p, 999) for p in c) < vocab[token]]
    return sorted(vocab, key=vocab.get), merges


def corpus() -> list[str]:
    folder = Path(__file__).parents[3] / "docs"
    return [
        line for f in sorted(folder.glob("*.md"))[:4] for line in f.read_text().splitlines(True)
    ]


def twin(text: str, pre: str, tokens: list[str], merges: list[str]) -> list[int]:
    """The ids of a text, by the plainest code there is."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ids, letters = {t: i for i, t in enumerate(tokens)}, bytes_to_unicode()
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(merges)}
    words = [unicodedata.normalize("NFC", text) if pre == "qwen2" else text]
    for expression in EXPRESSIONS[pre]:
        words = [found for word in words for found in regex.findall(expression, word)]
    result = []
    for word in words:
        parts = [letters[b] for b in word.encode()]
        if pre in ("llama-bpe", "llama3", "llama-v3", "tekken") and "".join(parts) in ids:
            parts = ["".join(parts)]
        while True:
            pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
            if not pairs or min(pairs) == len(ranks):
                break
            i = pairs.index(min(pairs))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        result += [ids[part] for part in parts]
    return result


@pytest.mark.parametrize("pre", EXPRESSIONS)
def test_ids_are_those_of_a_slow_twin(learned, pre):
    tokens, merges = learned
    p, rng = "tokenizer.ggml.", random.Random(pre)
    fields = {p + "model": "gpt2", p + "pre": pre, p + "tokens": tokens, p + "merges": merges}
    tokenizer = gguf_tokenizer(fields | {p + "token_type": [1] * len(tokens)})
    texts = ["".join(rng.choices(ALPHABET, k=rng.randrange(40))) for _ in range(300)]
    for text in [TEXT, *corpus()[:60], *texts]:
        assert tokenizer(text)["input_ids"] == twin(text, pre, tokens, merges), text


# What a file may say wrongly, or not at all


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_file_that_does_not_say_how_text_is_split_is_refused(pre):
    fields = fields_of("llama-bpe")
    del fields["tokenizer.ggml.pre"]
    if pre is not None:
        fields["tokenizer.ggml.pre"] = pre
    with pytest.raises(InputError, match=r"does not say how .* --pre-tokenizer llama-bpe"):
        gguf_tokenizer(fields)


def test_the_command_that_the_refusal_names_adds_the_key(tmp_path):
    """A file from before the key, and the `gguf` package's own tool."""
    raw, fields = raw_config(vocab_size=300), fields_of("llama-bpe")
    fields = {k.replace(".", "__"): v for k, v in fields.items() if not k.endswith(".pre")}
    old = write_gguf(tmp_path / "old.gguf", raw, hf_tensors(ModelConfig.from_hf(raw)), **fields)
    with pytest.raises(InputError, match="does not say how"):
        gguf_tokenizer(GGUFSource(old).fields)
    tool = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--pre-tokenizer", "llama-bpe"]
    subprocess.run([*tool, old, tmp_path / "new.gguf"], check=True, capture_output=True)
    new = gguf_tokenizer(GGUFSource(tmp_path / "new.gguf").fields)
    assert new(TEXT)["input_ids"] == gguf_tokenizer(fields_of("llama-bpe"))(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merges": ["f o", "a q"]}, "merge 'a q' is not of two of its tokens to a third"),
        ({"merges": ["f o", "fo x x"]}, "merge 'fo x x'"),
        ({"merges": ["f o", "fo"]}, "merge 'fo'"),
        ({"merges": ["f \u4f60"]}, "merge 'f \u4f60'"),
        ({"merges": [3]}, "merge 3"),
        ({"merges": "f o"}, "has no tokenizer.ggml.merges"),
        ({"token_type": [1]}, "tokens, 1 types"),
        ({"bos_token_id": 99999}, "bos_token_id is 99999, but there are 26"),
        ({"bos_token_id": "0"}, "bos_token_id is '0', expected a token id"),
        ({"eos_token_id": -3}, "eos_token_id is -3"),
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes', expected true or false"),
        ({"add_eos_token": True}, "no tokenizer.ggml.eos_token_id"),
    ],
    ids=str,
)
def test_damage_is_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        gguf_tokenizer(fields_of("llama-bpe", **change))
    assert "\n" not in str(caught.value)


def test_an_id_of_minus_one_names_no_token():
    """As llama.cpp's own writer says it, without a sign."""
    tokenizer = gguf_tokenizer(fields_of("gpt-2", padding_token_id=2**32 - 1, eos_token_id=-1))
    assert tokenizer.pad_token is None
    assert tokenizer.eos_token is None


def test_a_text_ends_with_eos_if_the_file_says_so():
    fields = fields_of("llama-bpe", add_eos_token=True, eos_token_id=0)
    ids = gguf_tokenizer(fields)("f")["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (fields["tokenizer.ggml.bos_token_id"], 0, 3)
