"""The tokenizer inside a GGUF file, rebuilt with the `tokenizers` library (no torch).

Byte-level BPE only. `tokenizer.ggml.pre` names how text is cut before the merges; transformers'
own GGUF reader ignores "smollm", so a run of spaces before a digit differs there from the real
tokenizer. Source: llama.cpp `src/llama-vocab.cpp` (the regular expressions behind each name).
"""

from collections.abc import Mapping
from typing import Any

from jaxdepth.errors import InputError

# token types of the GGUF specification
_CONTROL, _USER_DEFINED = 3, 4
_PREFIX = "tokenizer.ggml."

# Regular expressions that cut text, as the models' own tokenizer.json have them.
_START = r"[^\r\n\p{L}\p{N}]"
_WORDS = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_START}?\p{{L}}+"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_CUTS = {
    "qwen2": _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST,
    "llama-bpe": _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST,
    "tekken": rf"{_START}?{_UPPER}*{_LOWER}+|{_START}?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _REST,
}
# These take a word of the vocabulary whole, without merges, and begin a text with BOS.
_WHOLE = ("llama-bpe", "tekken")


def gguf_tokenizer(fields: Mapping[str, Any]):
    """A transformers fast tokenizer for the metadata `fields`, or None if they hold no tokenizer.

    Raises:
        InputError: a kind of tokenizer that is not implemented, or damaged fields.
    """
    if f"{_PREFIX}model" not in fields:
        return None
    kind, pre = fields[f"{_PREFIX}model"], fields.get(f"{_PREFIX}pre", "default")
    if kind != "gpt2":
        raise InputError(
            f"GGUF tokenizer of kind {kind!r} is not implemented, only 'gpt2' (byte-level BPE): "
            "convert the safetensors of this model, or pass --no-tokenizer"
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    try:
        tokens = fields[f"{_PREFIX}tokens"]
        merges = [tuple(merge.split(" ")) for merge in fields[f"{_PREFIX}merges"]]
        kinds = fields[f"{_PREFIX}token_type"]
        vocab = {token: i for i, token in enumerate(tokens)}
        if len(vocab) != len(tokens) or len(kinds) != len(tokens):
            raise ValueError("tokens repeat, or their types are not as many")
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE))
    except Exception as error:  # tokenizers raises plain Exception for bad merges
        raise InputError(f"the GGUF tokenizer is damaged ({error}): fetch it again") from None
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    for token, token_kind in zip(tokens, kinds, strict=True):
        if token_kind in (_CONTROL, _USER_DEFINED):
            control = token_kind == _CONTROL
            backend.add_tokens([AddedToken(token, special=control, normalized=False)])
    special = {
        name: tokens[fields[f"{_PREFIX}{key}_token_id"]]
        for name, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
        if f"{_PREFIX}{key}_token_id" in fields
    }
    if fields.get(f"{_PREFIX}add_bos_token", pre in _WHOLE) and "bos_token" in special:
        bos, number = special["bos_token"], int(fields[f"{_PREFIX}bos_token_id"])
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, number)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _pre_tokenizer(name: str):
    from tokenizers import Regex, pre_tokenizers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return words
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    if name in _CUTS:
        cut = pre_tokenizers.Split(Regex(_CUTS[name]), behavior="isolated")
        spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([cut, spell])
    known = ("smollm", "gpt-2", "default", *_CUTS)
    raise InputError(
        f"GGUF pre-tokenizer {name!r} is not implemented, only {', '.join(known)}: convert the "
        "safetensors of this model, or pass --no-tokenizer"
    )
