"""The tokenizer in a GGUF file, rebuilt with the `tokenizers` library (without torch).

Byte-level BPE only. `tokenizer.ggml.pre` names how text is split before the merges. transformers'
own GGUF reader ignores "smollm", so it splits a run of spaces before a digit otherwise than the
model's own tokenizer. Source: llama.cpp `src/llama-vocab.cpp`, the regular expression of each name.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer

# Token types of the GGUF specification.
_CONTROL, _USER_DEFINED = 3, 4
_PREFIX = "tokenizer.ggml."
# transformers' name -> GGUF's
_SPECIAL_TOKENS = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
}  # fmt: skip

# Regular expressions that split text, from the models' own tokenizer.json.
_NOT_WORD = r"[^\r\n\p{L}\p{N}]"
_WORDS = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_NOT_WORD}?\p{{L}}+"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SPLITS = {
    "qwen2": _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST,
    "llama-bpe": _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST,
    "tekken": rf"{_NOT_WORD}?{_UPPER}*{_LOWER}+|{_NOT_WORD}?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _REST,
}
# These keep a word of the vocabulary without applying merges, and begin a text with BOS.
_IGNORE_MERGES = ("llama-bpe", "tekken")


def gguf_tokenizer(fields: Mapping[str, Any]) -> FastTokenizer | None:
    """A transformers fast tokenizer from a file's metadata, or None if it has no tokenizer.

    Raises:
        InputError: the tokenizer is damaged, or of a kind that is not supported.
    """
    if f"{_PREFIX}model" not in fields:
        return None
    kind, pre = fields[f"{_PREFIX}model"], fields.get(f"{_PREFIX}pre", "default")
    if kind != "gpt2":
        raise InputError(
            f"GGUF tokenizer of kind {kind!r} is not implemented, only 'gpt2' (byte-level BPE): "
            "convert the safetensors of this model, or pass --no-tokenizer"
        )
    from transformers import PreTrainedTokenizerFast  # heavy

    tokens, backend = _byte_level_bpe(fields, ignore_merges=pre in _IGNORE_MERGES)
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    special = {
        name: tokens[fields[f"{_PREFIX}{key}_token_id"]]
        for name, key in _SPECIAL_TOKENS.items()
        if f"{_PREFIX}{key}_token_id" in fields
    }
    if fields.get(f"{_PREFIX}add_bos_token", pre in _IGNORE_MERGES) and "bos_token" in special:
        bos, bos_id = special["bos_token"], int(fields[f"{_PREFIX}bos_token_id"])
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, bos_id)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _byte_level_bpe(fields: Mapping[str, Any], ignore_merges: bool) -> tuple[list[str], Tokenizer]:
    """The vocabulary in order of ids, and a tokenizer of it with its control tokens."""
    try:
        tokens = fields[f"{_PREFIX}tokens"]
        merges = [tuple(merge.split(" ")) for merge in fields[f"{_PREFIX}merges"]]
        types = fields[f"{_PREFIX}token_type"]
        vocab = {token: i for i, token in enumerate(tokens)}
        if len(vocab) != len(tokens) or len(types) != len(tokens):
            raise ValueError("tokens repeat, or their types are not as many")
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    except Exception as error:  # tokenizers raises plain Exception for bad merges
        raise InputError(f"the GGUF tokenizer is damaged ({error}): fetch it again") from None
    for token, token_type in zip(tokens, types, strict=True):
        if token_type in (_CONTROL, _USER_DEFINED):
            is_control = token_type == _CONTROL
            backend.add_tokens([AddedToken(token, special=is_control, normalized=False)])
    return tokens, backend


def _pre_tokenizer(name: str):
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return words
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    if name in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, to_bytes])
    supported = ("smollm", "gpt-2", "default", *_SPLITS)
    raise InputError(
        f"GGUF pre-tokenizer {name!r} is not implemented, only {', '.join(supported)}: convert the "
        "safetensors of this model, or pass --no-tokenizer"
    )
