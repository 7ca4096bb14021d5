"""The tokenizer of an exported folder: the source's own files, unless an adapter changed it.

transformers 5 writes three things that 4 does not read (`tokenization_utils_base.py`,
`models/auto/tokenization_auto.py`): a `tokenizer_class` that only 5 has, `extra_special_tokens` as
a list, and where on this machine the files were.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from jaxdepth.files import read_json
from jaxdepth.model import FastTokenizer
from jaxdepth.weights.checkpoint import SIDECARS, load_tokenizer

_CONFIG = "tokenizer_config.json"
_ONLY_TRANSFORMERS_5 = (
    "TokenizersBackend",
    "PythonBackend",
    "SentencePieceBackend",
    "MistralCommonBackend",
)
_OF_THIS_MACHINE = ("is_local", "local_files_only", "backend")


def write_tokenizer(checkpoint: Path, tokenizer: FastTokenizer | None, folder: Path) -> None:
    """Write a model's tokenizer, and its generation config, to an exported folder.

    Args:
        checkpoint: the model's folder, whose files are copied.
        tokenizer: of the model that is exported; None if it has none.
        folder: the exported folder.
    """
    for name in SIDECARS:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    if tokenizer is None:
        return
    own = folder / _CONFIG
    kept = read_json(own) if own.is_file() else {}
    if _state(tokenizer) != _state(load_tokenizer(checkpoint)):
        tokenizer.save_pretrained(folder)
        saved = read_json(own)
        if "tokenizer_class" in kept:
            saved["tokenizer_class"] = kept["tokenizer_class"]
        _write(own, saved)
    if own.is_file():
        config = read_json(own)
        readable = readable_by_4(config)
        if readable != config:
            _write(own, readable)


def readable_by_4(config: dict[str, Any]) -> dict[str, Any]:
    """A `tokenizer_config.json` that transformers 4 and 5 both read, from one that 5 wrote."""
    config = {k: v for k, v in config.items() if k not in _OF_THIS_MACHINE}
    if config.get("tokenizer_class") in _ONLY_TRANSFORMERS_5:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):
        del config["extra_special_tokens"]
        tokens = list(config.get("additional_special_tokens") or [])
        config["additional_special_tokens"] = tokens + [t for t in extra if t not in tokens]
    return config


def _state(tokenizer: FastTokenizer) -> tuple:
    """All that a tokenizer's files determine."""
    special = tokenizer.special_tokens_map
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, str(special)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
