"""The tokenizer of a model with a PEFT adapter: the one that the adapter was trained with.

Training saves it beside the adapter, its chat template included, and transformers loads it from
there. The base's own often has no template.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxdepth.errors import InputError, listed
from jaxdepth.files import read_json
from jaxdepth.model import FastTokenizer
from jaxdepth.weights.checkpoint import load_tokenizer
from jaxdepth.weights.huggingface.spare_tokens import without_spare_tokens
from jaxdepth.weights.huggingface.tokenizer_files import check_has_tokenizer, tokenizer_files

_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


def load_adapted_tokenizer(
    checkpoint: Path, adapter: Path | None, vocab_size: int
) -> FastTokenizer | None:
    """The tokenizer for a checkpoint with an adapter.

    A folder with `tokenizer.json` has a whole tokenizer. Other files of it change the checkpoint's:
    a chat template alone, or a config.

    Args:
        checkpoint: the base's folder.
        adapter: a PEFT folder; of anything else, or None, the checkpoint's tokenizer is kept.
        vocab_size: of the base.

    Returns:
        A transformers fast tokenizer, or None if there is none.

    Raises:
        InputError: the adapter's tokenizer cannot be read, needs tokens for which the base has no
            row, or numbers the words of the base's otherwise.
    """
    base = load_tokenizer(checkpoint)
    if base is not None:
        base = without_spare_tokens(base, vocab_size, str(checkpoint))
    names = tokenizer_files(adapter) if adapter is not None and adapter.is_dir() else []
    if adapter is None or not names:
        return base
    own = load_own_tokenizer(adapter)
    if own is None and base is not None:
        own = _changed(checkpoint, adapter, names)
    if own is None:
        return None
    own = without_spare_tokens(own, vocab_size, str(adapter))
    if base is not None:
        _check_words(own, base, adapter)
    return own


def load_own_tokenizer(adapter: Path) -> FastTokenizer | None:
    """The whole tokenizer that a PEFT folder has; None if it has none, or only changes the base's.

    Raises:
        InputError: it cannot be read, or is there in a form that is not read.
    """
    check_has_tokenizer(adapter, "move those files elsewhere to use the checkpoint's tokenizer")
    return load_tokenizer(adapter)


def _changed(checkpoint: Path, adapter: Path, names: list[str]) -> FastTokenizer | None:
    """The checkpoint's tokenizer with an adapter's files in place of its own."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own_config = _object(adapter / _CONFIG)
        config = _object(checkpoint / _CONFIG) | own_config
        has_template = own_config.get("chat_template") or _TEMPLATE in names
        for source, copied in ((checkpoint, tokenizer_files(checkpoint)), (adapter, names)):
            for name in copied:
                if source == adapter or not (has_template and "template" in name):
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(source / name, folder / name)
        (folder / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
        return load_tokenizer(folder)


def _object(file: Path) -> dict:
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, expected an object")
    return content


def _check_words(own: FastTokenizer, base: FastTokenizer, adapter: Path) -> None:
    """Raise InputError if the words of the base's vocabulary have other ids."""
    vocabulary = own.get_vocab()
    added = {str(token) for token in base.added_tokens_decoder.values()}
    words = {token: i for token, i in base.get_vocab().items() if token not in added}
    moved = sorted(token for token, i in words.items() if vocabulary.get(token) != i)
    if moved:
        raise InputError(
            f"{adapter}: its tokenizer has other ids than the base's for {listed(moved)}: the "
            "adapter is for another base"
        )
