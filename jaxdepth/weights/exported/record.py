"""What an exported folder was made from, so that the same export again finds it done.

jaxdepth_export.json: the checkpoint's fingerprint, the adapter's digest, dtype and exit, and the
digests of all files beside it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest, read_json
from jaxdepth.weights.checkpoint import MANIFEST, read_manifest

RECORD = "jaxdepth_export.json"


def write_record(folder: Path, request: Mapping) -> None:
    """Complete an exported folder with the record of what it was made from."""
    text = json.dumps({**request, "files": _digests(folder)}, indent=1) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def check_same_export(target: Path, request: Mapping) -> None:
    """Check that an existing folder is what this export would make.

    Raises:
        InputError: it is another export or something else, or was changed since.
    """
    if not (target / RECORD).is_file():
        raise _exists(target)
    record = read_json(target / RECORD)
    if record != {**request, "files": _digests(target)}:
        raise _exists(target)


def check_same_checkpoint(target: Path, request: Mapping) -> None:
    """`check_same_export` for a checkpoint that was exported."""
    if not (target / MANIFEST).is_file():
        raise _exists(target)
    if read_manifest(target)["source"].get("export") != dict(request):
        raise _exists(target)


def _exists(target: Path) -> InputError:
    return InputError(
        f"{target} exists, and is not what this command exports: name another folder, or remove it"
    )


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != RECORD)
    return {f.relative_to(folder).as_posix(): file_digest(f) for f in files}
