"""The tokenizer of a Hugging Face folder, in whichever form it is there.

Most folders have `tokenizer.json`. Some that older tools wrote have only `vocab.json` and
`merges.txt`, from which transformers makes the same tokenizer if `tokenizer_class` says how text is
split. Source: transformers 5 `models/qwen2/tokenization_qwen2.py`, `models/gpt2/`.
"""

from pathlib import Path

from jaxdepth.errors import InputError, one_line
from jaxdepth.files import read_json
from jaxdepth.model import FastTokenizer
from jaxdepth.weights.checkpoint import checked_tokenizer, load_tokenizer
from jaxdepth.weights.huggingface.tokenizer_files import (
    CONFIG,
    MERGES,
    TOKENIZER,
    VOCABULARY,
    check_has_tokenizer,
)

# Those that need nothing but these two files.
_CLASSES = ("Qwen2Tokenizer", "GPT2Tokenizer")


def load_folder_tokenizer(folder: Path) -> FastTokenizer | None:
    """The transformers fast tokenizer of a source folder, or None if it has none.

    Raises:
        InputError: it cannot be read, or is there in a form that is not read.
    """
    kind = _class_of(folder)
    if kind is None:
        check_has_tokenizer(folder, "pass --no-tokenizer")
        return load_tokenizer(folder)
    import transformers  # heavy

    try:
        tokenizer = getattr(transformers, kind).from_pretrained(folder)
    except Exception as error:  # tokenizers raises plain Exception
        reason = one_line(error)[:120]
        raise InputError(f"the tokenizer in {folder} cannot be read ({reason})") from None
    return checked_tokenizer(tokenizer, folder)


def _class_of(folder: Path) -> str | None:
    """The class that makes a tokenizer of a vocabulary and merges, where that is all there is."""
    has_both = all((folder / name).is_file() for name in (VOCABULARY, MERGES, CONFIG))
    if not has_both or (folder / TOKENIZER).is_file():
        return None
    config = read_json(folder / CONFIG)
    kind = str(config.get("tokenizer_class") if isinstance(config, dict) else "")
    kind = kind.removesuffix("Fast")
    return kind if kind in _CLASSES else None
