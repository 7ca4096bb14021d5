"""`--columns`: which columns of a file hold what, in a user's words."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.prompts.prompt import UNLABELLED
from jaxdepth.prompts.sources.labels import LABEL_WORDS, read_label

FIELDS = ("prompt", "label", "id", "category", "pair", "system", "prefill", "messages", "drop")
ANSWER, PREFILL = "answer", "prefill"  # what a conversation's last message by the assistant is
_SEVERAL = ("prompt", "drop")  # fields that may have several columns


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, where a user said so; names are in lower case."""

    columns_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by field; () is none
    labels: Mapping[str, str | None] = field(default_factory=dict)  # value of the column -> label
    last: str | None = None  # ANSWER or PREFILL

    @property
    def named(self) -> set[str]:
        """All columns that are named."""
        return {name for names in self.columns_of.values() for name in names}

    def of(self, names: Iterable[str], where: str) -> "Columns":
        """What is said of a file with these columns: what it drops, where it lacks all others.

        Raises:
            InputError: the file has some of the columns, and lacks others.
        """
        names = list(names)
        dropped = self.columns_of.get("drop", ())
        needed = self.named - set(dropped)
        missing = sorted(needed.difference(names))
        if needed and missing == sorted(needed):
            return Columns({"drop": dropped})
        if missing:
            raise InputError(
                f"--columns names {listed(missing)}, which {where} lacks; it has {listed(names, 9)}"
            )
        return self


def parse_columns(texts: Iterable[str]) -> Columns:
    r"""Parse `--columns`.

    Args:
        texts: each FIELD=COLUMN, or several with commas between them. `prompt=A+B` joins columns;
            `FIELD=` says that no column holds it; `label=A:1=harmful,0=harmless` names values;
            `messages=A:last=answer` or `last=prefill` says what a conversation's last message is if
            the assistant wrote it; `drop=A+B` leaves columns out. A backslash before a comma, `+`,
            `:` or `=` makes it part of a name.

    Raises:
        InputError: no such field, a field twice, or a value without a meaning.
    """
    columns_of: dict[str, tuple[str, ...]] = {}
    meanings: dict[str, list[str]] = {}
    current = ""
    for item in (item for text in texts for item in _split(text, ",") if item.strip()):
        name, *rest = _split(item, "=")
        if name.strip().lower() not in FIELDS and meanings.get(current):
            meanings[current].append(item)
            continue
        current = name.strip().lower()
        if current not in FIELDS or not rest:
            raise InputError(
                f"--columns {item}: expected FIELD=COLUMN, with FIELD one of {listed(FIELDS, 9)}"
                f"{nearest(current, FIELDS)}"
            )
        if current in columns_of and current != "drop":
            raise InputError(f"--columns gives {current} twice; prompt=A+B joins two columns")
        names, *values = _split("=".join(rest), ":")
        parts = [_plain(part) for part in _split(names, "+") if part.strip()]
        if len(parts) > 1 and current not in _SEVERAL:
            raise InputError(
                f"--columns {item}: only {' and '.join(_SEVERAL)} take several columns"
            )
        columns_of[current] = columns_of.get(current, ()) + tuple(parts)
        if values and current not in ("label", "messages"):
            raise InputError(f"--columns {item}: only values of label and messages have a meaning")
        meanings[current] = values
    labels = dict(_label_of(item) for item in meanings.get("label", ()))
    return Columns(columns_of, labels, _last(meanings.get("messages", [])))


def _label_of(item: str) -> tuple[str, str | None]:
    value, *rest = map(_plain, _split(item, "="))
    label = read_label(rest[0]) if len(rest) == 1 else None
    if label is None and rest != [UNLABELLED]:
        raise InputError(
            f"--columns label: {item!r} names no label; expected VALUE=LABEL, such as 1=harmful, "
            f"with LABEL one of {listed([*LABEL_WORDS, UNLABELLED], 9)}"
        )
    return value, label


def _last(items: list[str]) -> str | None:
    if not items:
        return None
    name, *rest = map(_plain, _split(items[0], "="))
    if len(items) > 1 or name != "last" or rest not in ([ANSWER], [PREFILL]):
        raise InputError(
            f"--columns messages: {','.join(items)!r}; expected last={ANSWER} (leave it out) or "
            f"last={PREFILL} (the start of the answer)"
        )
    return rest[0]


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks that have no backslash before them."""
    return re.split(rf"(?<!\\){re.escape(mark)}", text)


def _plain(text: str) -> str:
    return re.sub(r"\\([,+:=])", r"\1", text).strip().lower()
