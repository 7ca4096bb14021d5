"""Reading files that a stranger may have written."""

import hashlib
import json
from pathlib import Path
from typing import Any

from jaxdepth.errors import InputError

_MOST_JSON = 64 * 2**20  # bytes; the largest vocabularies take half of that


def read_json(path: Path, mend: str = "fetch it again") -> Any:
    """A JSON file's content.

    Raises:
        InputError: the file is missing, too large, or broken; `mend` says what to do then.
    """
    if not path.is_file():
        wrong = "is not a file" if path.exists() else "is missing"
        raise InputError(f"{path} {wrong}: is this the folder of a model?")
    size = path.stat().st_size
    if size > _MOST_JSON:  # parsed, it would take many times as much memory
        raise InputError(f"{path} has {size:,} bytes, expected at most {_MOST_JSON:,}: {mend}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {mend}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
