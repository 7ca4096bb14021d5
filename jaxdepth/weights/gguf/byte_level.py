"""Byte-level BPE of a GGUF file, `tokenizer.ggml.model = "gpt2"`.

`tokenizer.ggml.pre` names how text is split before the merges. transformers' own GGUF reader
ignores "smollm", so it splits a run of spaces before a digit otherwise than the model's own
tokenizer. Source: llama.cpp `src/llama-vocab.cpp`, the regular expression of each name.
"""

from reprlib import repr as short  # values in a file may be long

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jaxdepth.errors import InputError
from jaxdepth.weights.gguf.vocabulary import CONTROL, USER_DEFINED, Vocabulary

# Regular expressions that split text, from the models' own tokenizer.json.
_NOT_WORD = r"[^\r\n\p{L}\p{N}]"
_WORDS = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_NOT_WORD}?\p{{L}}+"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST
SPLITS = {
    "qwen2": _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,  # the names of other converters
    "llama-v3": _LLAMA3,
    "tekken": rf"{_NOT_WORD}?{_UPPER}*{_LOWER}+|{_NOT_WORD}?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _REST,
}
# These keep a word of the vocabulary without applying merges, and begin a text with BOS.
_KEEPS_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")
_SUPPORTED = ("smollm", "gpt-2", *SPLITS)


def byte_level_bpe(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer of the `tokenizers` library, without special tokens around a text.

    Raises:
        InputError: the merges are damaged, or the file does not say how text is split, or in a way
            that is not implemented.
    """
    pre = vocabulary.get("pre")
    pre_tokenizer = _pre_tokenizer(pre)
    merges = read_merges(vocabulary)
    model = models.BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=pre in _KEEPS_WORDS)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    added = [i for i, t in enumerate(vocabulary.types) if t in (CONTROL, USER_DEFINED)]
    backend.add_tokens(list(map(vocabulary.added_token, added)))
    return backend


def begins_with_bos(vocabulary: Vocabulary) -> bool:
    """Whether texts begin with BOS if the file has no `tokenizer.ggml.add_bos_token`."""
    return vocabulary.get("pre") in _KEEPS_WORDS


def read_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """`tokenizer.ggml.merges` as pairs.

    Raises:
        InputError: one is not of two tokens that together are a third. The library would end the
            process of such a merge with a panic.
    """
    merges, ids = [], vocabulary.ids
    for merge in vocabulary.listed("merges"):
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else ()
        if len(pair) != 2 or not {*pair, "".join(pair)} <= ids.keys():
            raise InputError(
                f"the GGUF tokenizer is damaged (merge {short(merge)} is not of two of its tokens "
                "to a third): fetch the file again"
            )
        merges.append((pair[0], pair[1]))
    return merges


def _pre_tokenizer(name: str | None):
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        return words
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    if isinstance(name, str) and name in SPLITS:
        split = pre_tokenizers.Split(Regex(SPLITS[name]), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, to_bytes])
    if name in (
        None,
        "",
        "default",
    ):  # files from before May 2024, and converters that did not know it
        raise InputError(
            "the file does not say how its tokenizer splits text (tokenizer.ggml.pre is "
            f"{repr(name) if name else 'missing'}), and a wrong guess gives wrong token "
            "ids: convert a newer GGUF or the safetensors of this model, or name it yourself, for "
            "Llama 3 by: gguf-new-metadata --pre-tokenizer llama-bpe OLD NEW, or pass "
            f"--no-tokenizer; known are {', '.join(_SUPPORTED)}"
        )
    raise InputError(
        f"GGUF pre-tokenizer {short(name)} is not implemented, only {', '.join(_SUPPORTED)}: "
        "convert the safetensors of this model, or pass --no-tokenizer"
    )
