"""What an endpoint said before, on disk: one small file an answer, written whole or not at all.

A file's name is a digest of model, address, rubric, prompt and answer; it holds the outcome alone,
never a text or a key.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from jaxdepth.refusal.outcome import Outcome

FOLDER = Path("~/.cache/jaxdepth/judgements")


class ReplyCache:
    """Outcomes by digest."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (FOLDER if folder is None else folder).expanduser()

    def find(self, *parts: str) -> Outcome | None:
        """The outcome that was kept for these parts; None if there is none that can be read."""
        try:
            return Outcome(json.loads(self._file(parts).read_text("utf-8"))["outcome"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, outcome: Outcome, *parts: str) -> None:
        """Keep an outcome; where the disk does not allow it, it is asked for again next time."""
        file = self._file(parts)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as partial:
                    json.dump({"outcome": outcome}, partial)
                Path(name).replace(file)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise

    def _file(self, parts: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"
