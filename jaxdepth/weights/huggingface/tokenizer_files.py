"""The files that transformers reads for a tokenizer, and whether two tokenizers are the same.

Source: transformers 5 `tokenization_utils_base.py` (`from_pretrained`), and 4 for the older forms
beside `tokenizer.json`, which are kept for tools that read those.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
PROCESSOR_TEMPLATE = "chat_template.json"  # where a processor keeps the template of its tokenizer
# In the order of importance to a reader.
TOKENIZER_FILES = (
    TOKENIZER,
    CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    PROCESSOR_TEMPLATE,
)
# The same vocabulary in other forms. They are copied; without `tokenizer.json` a vocabulary and its
# merges are read, by the classes in folder_tokenizer.py.
OTHER_FORMS = ("tokenizer.model", "tekken.json", VOCABULARY, MERGES, "vocab.txt")
TEMPLATE_FOLDER = "additional_chat_templates"
PATTERNS = ("tokenizer.*.json", f"{TEMPLATE_FOLDER}/*.jinja")  # of the files without fixed names
# `fast_tokenizer_files` of a config may name a file for each range of transformers' versions.
_VERSIONED = re.compile(r"tokenizer\.[\w.-]+\.json")

_CORPUS = (
    "The quick brown fox: 1234567890, 3.14!  Two  spaces\n\n\tand tabs\r\n    x = [1, 2]; it's "
    "I'LL na\u00efve caf\u00e9 Z\u00fcrich \u4f60\u597d \u3053\u3093 \u0645\u0631\u062d "
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \ue000 e\u0301 <|x|> [INST] </s> @@ __"
)


def tokenizer_files(folder: Path) -> list[str]:
    """The names of a folder's tokenizer files, relative to it, chat templates included."""
    names = [name for name in (*TOKENIZER_FILES, *OTHER_FORMS) if (folder / name).is_file()]
    names += sorted(p.name for p in folder.glob("tokenizer.*.json") if _VERSIONED.match(p.name))
    return names + sorted(
        f"{TEMPLATE_FOLDER}/{p.name}" for p in (folder / TEMPLATE_FOLDER).glob("*.jinja")
    )


def check_has_tokenizer(folder: Path, instead: str) -> None:
    """Check that a folder with a tokenizer has it in the form that is read.

    Args:
        folder: of Hugging Face's files.
        instead: what the reader can do otherwise, for the message.

    Raises:
        InputError: it is there in another form only.
    """
    forms = [name for name in OTHER_FORMS if (folder / name).is_file()]
    if forms and not (folder / TOKENIZER).is_file():
        raise InputError(
            f"{folder} has {' and '.join(forms[:2])} but no {TOKENIZER}, which is what is read: "
            "write it with transformers (AutoTokenizer.from_pretrained, save_pretrained), or "
            f"{instead}"
        )


def tokenizer_difference(one: FastTokenizer, other: FastTokenizer) -> str | None:
    """In what two tokenizers differ, or None if they do the same.

    Compared are the vocabularies, the special tokens, the chat templates, and the ids of a corpus
    with every added token.
    """
    for (what, value), (_, other_value) in zip(_described(one), _described(other), strict=True):
        if value != other_value:
            return what
    return None


def _described(tokenizer: FastTokenizer) -> Iterator[tuple[str, object]]:
    yield "vocabulary", tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    yield "added tokens", {i: repr(token) for i, token in added.items()}
    yield "special tokens", {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
    yield "chat template", tokenizer.chat_template
    words = "".join(f" a {token} b{token}c" for token in added.values())
    yield "the ids of a text", _ids(tokenizer, _CORPUS)
    yield "the ids of a text with every added token", _ids(tokenizer, _CORPUS + words)


def _ids(tokenizer: FastTokenizer, text: str) -> object:
    try:
        return tokenizer(text, verbose=False)["input_ids"]
    except Exception as error:  # of a damaged tokenizer: the other must fail alike
        return type(error).__name__
