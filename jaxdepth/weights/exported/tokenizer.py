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
from jaxdepth.weights.checkpoint import load_tokenizer, sidecars

_CONFIG, _GENERATION = "tokenizer_config.json", "generation_config.json"
_ONLY_TRANSFORMERS_5 = (
    "TokenizersBackend",
    "PythonBackend",
    "SentencePieceBackend",
    "MistralCommonBackend",
)
_OF_THIS_MACHINE = ("is_local", "local_files_only", "backend")


def write_tokenizer(checkpoint: Path, changed: FastTokenizer | None, folder: Path) -> None:
    """Write a model's tokenizer, and its generation config, to an exported folder.

    Args:
        checkpoint: the model's folder, whose files are copied.
        changed: the tokenizer that an adapter may have changed, to write instead; None if there is
            none.
        folder: the exported folder.
    """
    is_kept = changed is None or _state(changed) == _state(load_tokenizer(checkpoint))
    for name in sidecars(checkpoint) if is_kept else [_GENERATION]:
        if (checkpoint / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(checkpoint / name, folder / name)
    file, original = folder / _CONFIG, checkpoint / _CONFIG
    if changed is not None and not is_kept:  # the older forms of its vocabulary would differ
        changed.save_pretrained(folder)
        kind = read_json(original).get("tokenizer_class") if original.is_file() else None
        _write(file, read_json(file) | ({} if kind is None else {"tokenizer_class": kind}))
    if file.is_file():
        config = read_json(file)
        readable = readable_by_4(config)
        if readable != config:
            _write(file, readable)


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


def _state(tokenizer: FastTokenizer | None) -> tuple | None:
    """All that a tokenizer's files determine."""
    if tokenizer is None:
        return None
    special = tokenizer.special_tokens_map
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, str(special)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
