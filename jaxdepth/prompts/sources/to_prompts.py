"""Rows become prompts: each column is used, known to be no part of a prompt, or refused."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS, UNLABELLED, Prompt, prompt_of_row
from jaxdepth.prompts.sources import published
from jaxdepth.prompts.sources.columns import Columns
from jaxdepth.prompts.sources.conversations import Conversation, read_conversation
from jaxdepth.prompts.sources.labels import LABEL_WORDS, label_of_name, read_label
from jaxdepth.prompts.sources.published import Layout, layout_of
from jaxdepth.prompts.sources.rows import Row, columns_of, is_empty, may_be_prompt
from jaxdepth.records import as_type

_GENERIC = Layout("", (), published.PROMPT)
# The table of a run's prompts: all columns, and those that it has had in every version.
_RUN_COLUMNS = {field.name for field in fields(Prompt)}
_OF_RUN = {field.name for field in fields(Prompt) if field.default is MISSING}
_CANDIDATES = {
    "label": published.LABEL,
    "id": published.ID,
    "category": published.CATEGORY,
    "pair": published.PAIR,
    "system": published.SYSTEM,
    "prefill": published.PREFILL,
    "messages": published.MESSAGES,
}
_KNOWN = {**_CANDIDATES, "prompt": published.PROMPT, "drop": ()}


class Source(NamedTuple):
    """Rows, and what their prompts are named by."""

    rows: Sequence[Row]
    name: str  # as the user wrote it, for messages
    source: str  # as prompts and tables have it
    stem: str  # begins the prompts' ids
    named: str  # words that may give the label
    label: str | None = None  # of all prompts, as the user wrote it
    labels_rows: bool = True  # whether rows have labels of their own; not of `unlabelled=FILE`


def to_prompts(source: Source, said: Columns) -> list[tuple[Prompt, str]]:
    """The prompts of a source, each with the place that it is from.

    Args:
        source: all of its rows.
        said: what the user says of its columns.

    Raises:
        InputError: names the file, the row and the column that is wrong or not understood.
    """
    names = columns_of(source.rows)
    return _Reader(source, said.of(names, source.name), names).read()


class _Reader:
    """Reads the rows of one source."""

    def __init__(self, source: Source, said: Columns, names: Iterable[str]) -> None:
        self.source, self.said = source, said
        self.names = dict.fromkeys(names)  # in their order
        known = layout_of(set(self.names))
        self.layout = known or _GENERIC
        if "prompt" in said.columns_of:
            self.layout = Layout(
                self.layout.name,
                (),
                said.columns_of["prompt"],
                label=self.layout.label,
                style=self.layout.style,
                others=self.layout.others,
            )
        self.has_choice = known is None and "prompt" not in said.columns_of
        self.columns = {name: self._columns(name, of) for name, of in _CANDIDATES.items()}
        if said.columns_of.get("prompt") and "messages" not in said.columns_of:
            self.columns["messages"] = ()
        self.is_paired = {HARMFUL, HARMLESS} <= set(self.names) and not said.columns_of.get(
            "prompt"
        )
        self.understood = {
            *self.layout.prompt,
            *self.layout.others,
            *(name for columns in self.columns.values() for name in columns),
            *said.columns_of.get("drop", ()),
            # `FIELD=`: the columns that would hold it are left out.
            *(c for field, named in said.columns_of.items() if not named for c in _KNOWN[field]),
        }
        if self.is_paired:
            self.understood |= {HARMFUL, HARMLESS}
        self.is_of_run = set(self.names) >= _OF_RUN and not said.columns_of.get("prompt")
        if self.is_of_run:
            self.understood |= _RUN_COLUMNS
        self._of_name: tuple[str | None] | None = None

    def read(self) -> list[tuple[Prompt, str]]:
        if not self.source.rows:
            raise InputError(f"{self.source.name} holds no prompts: expected one a line or row")
        self._check_has_prompts()
        prompts = []
        for number, row in enumerate(self.source.rows, start=1):
            self._check_others(row)
            if self.is_of_run:
                prompts.append((self._of_run(row), row.place))
                continue
            make = self._pair if self.is_paired and not self._is_flag(row) else self._one
            prompts += [(prompt, row.place) for prompt in make(row, number)]
        return prompts

    def _check_has_prompts(self) -> None:
        is_there = any(c in self.names for c in (*self.layout.prompt, *self.columns["messages"]))
        if not (is_there or self.is_paired or self.is_of_run):
            raise InputError(
                f"{self.source.name} has the columns {listed(self.names, 6)}, none of which holds "
                f"prompts; expected one of {', '.join(published.PROMPT[:6])}, a conversation "
                f"({published.MESSAGES[0]}), or both {HARMFUL} and {HARMLESS}; or write --columns "
                "prompt=NAME"
            )

    def _columns(self, name: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The columns that may hold a field: those that the user names, or known ones."""
        return self.said.columns_of.get(name, tuple(c for c in candidates if c in self.names))

    def _is_flag(self, row: Row) -> bool:
        return isinstance(row.values.get(HARMFUL), bool | int | float)

    def _of_run(self, row: Row) -> Prompt:
        """The prompt of a run, with the id and the source that it had there."""
        held = {
            name: None if is_empty(row.values.get(name)) else row.values[name]
            for name in _RUN_COLUMNS
        }
        values = {
            name: as_type(value, str | None, f"{row.place}: {name}") for name, value in held.items()
        }
        text = checked_text(values["text"], "text", row.place)
        if None in (values["prompt_id"], values["source"]):
            raise InputError(f"{row.place}: prompt_id or source is empty in a table of a run")
        if values["earlier"] is not None:
            messages = values["earlier"].strip().removesuffix("]")
            last = json.dumps({"role": "user", "content": text})
            read_conversation(f"{messages}, {last}]", "earlier", row.place, None)
        return prompt_of_row({**values, "label": self._label(row)})

    def _pair(self, row: Row, number: int) -> list[Prompt]:
        if self.source.label or not self.source.labels_rows:
            raise InputError(
                f"{row.place} holds a pair, whose prompts have both labels: name the file alone"
            )
        stem, where = self.source.stem, row.place
        pair_id = f"{stem}-{self._name(row, 'pair') or f'{number:04d}'}"
        category = self._name(row, "category")
        return [
            Prompt(
                f"{pair_id}-{kind}",
                checked_text(row.values.get(kind), kind, where),
                kind,
                category,
                pair_id,
                self.source.source,
            )
            for kind in (HARMFUL, HARMLESS)
        ]

    def _one(self, row: Row, number: int) -> list[Prompt]:
        stem = self.source.stem
        talk = self._conversation(row)
        given = self._name(row, "id") or f"{number:04d}"
        style = row.values.get(self.layout.style) if self.layout.style else None
        if isinstance(style, str) and style.strip() not in ("", "base"):
            given = f"{given}-{style.strip()}"
        pair = self._name(row, "pair")
        return [
            Prompt(
                given if given.startswith(f"{stem}-") else f"{stem}-{given}",
                talk.text,
                self._label(row),
                self._name(row, "category"),
                f"{stem}-{pair}" if pair else None,
                self.source.source,
                talk.system,
                talk.earlier,
                talk.prefill,
            )
        ]

    def _conversation(self, row: Row) -> Conversation:
        """The text of a row, and what goes before and after it."""
        talk = self._messages(row)
        for field in ("system", "prefill"):
            value = self._only(row, self.columns[field])
            if value is None:
                continue
            text = checked_text(value[1], value[0], row.place)
            if getattr(talk, field) not in (None, text):
                raise InputError(
                    f"{row.place}: the column {value[0]} and the messages have different "
                    f"{field} texts: --columns {field}= leaves the column out"
                )
            talk = talk._replace(system=text) if field == "system" else talk._replace(prefill=text)
        return talk

    def _messages(self, row: Row) -> Conversation:
        where = row.place
        cell = self._only(row, self.columns["messages"])
        column, value = cell or (None, None)
        texts = self._texts(row)
        if cell is None and len(texts) == 1 and isinstance(next(iter(texts.values())), list):
            ((column, value),) = texts.items()
            texts = {}
        if column is None:
            return Conversation(self._joined(texts, where))
        talk = read_conversation(value, column, where, self.said.last)
        contents = [talk.text, *(message.content for message in talk.earlier)]
        for content in (*contents, *filter(None, (talk.system, talk.prefill))):
            checked_text(content, column, where)
        other = next((name for name, text in texts.items() if text not in contents), None)
        if other is not None:  # a copy of one of the messages is harmless
            raise InputError(
                f"{where}: the columns {column} and {other} could each hold the prompt: write "
                f"--columns messages={column} drop={other}, or prompt={other} drop={column}"
            )
        return talk

    def _texts(self, row: Row) -> dict[str, Any]:
        return {c: row.values[c] for c in self.layout.prompt if not is_empty(row.values.get(c))}

    def _joined(self, texts: Mapping[str, Any], where: str) -> str:
        """The text of the prompt columns that are not empty in a row."""
        main = self.layout.main
        if not texts or (main and main not in texts):
            held = [*filter(self.names.__contains__, self.layout.prompt), *self.columns["messages"]]
            raise InputError(
                f"{where}: the prompt in column {main or next(iter(held), HARMFUL)} is empty"
            )
        checked = {c: checked_text(value, c, where) for c, value in texts.items()}
        if self.has_choice:
            if len(set(checked.values())) > 1:
                first = next(iter(checked))
                raise InputError(
                    f"{where}: the columns {listed(checked, 4)} could each hold the prompt: write "
                    f"--columns prompt={first} and drop=... for the others, or join them with "
                    f"prompt={'+'.join(checked)}"
                )
            return next(iter(checked.values()))
        return self.layout.between.join(checked.values())

    def _only(self, row: Row, columns: Iterable[str]) -> tuple[str, Any] | None:
        """The one of some columns that holds something."""
        held = [(c, row.values[c]) for c in columns if not is_empty(row.values.get(c))]
        if len(held) > 1 and any(value != held[0][1] for _, value in held):
            raise InputError(
                f"{row.place}: the columns {listed([c for c, _ in held])} differ, and one is "
                "expected: drop the others by --columns drop=NAME"
            )
        return held[0] if held else None

    def _name(self, row: Row, field: str) -> str | None:
        """The text, or the whole number, of the first column for a field that has one."""
        columns = self.columns[field]
        column = next((c for c in columns if not is_empty(row.values.get(c))), None)
        if column is None:
            return None
        value, where = row.values[column], f"{row.place}: {column}"
        if field == "category" and isinstance(value, list):
            return "+".join(as_type(value, list[str], where))
        try:
            return str(as_type(value, int if type(value) is int else str, where))
        except InputError as error:
            raise InputError(f"{error}; --columns {field}= leaves it out") from None

    def _label(self, row: Row) -> str | None:
        """The label by the user, its column, the published set, or the file's name."""
        if not self.source.labels_rows:
            return None
        of_row, column = self._label_of_row(row)
        asked = self.source.label
        if asked is not None:
            if of_row not in (None, asked):
                raise InputError(
                    f"{row.place} is {of_row} by its column {column}, and all are called {asked}: "
                    f"leave {asked}= out, or the column by --columns label="
                )
            return asked
        if column is not None:
            return of_row
        self._check_like_label(row)
        of_name = self._label_of_name()
        if self.layout.label and of_name not in (None, self.layout.label):
            raise InputError(
                f"{self.source.name} has the columns of {self.layout.name}, whose prompts are "
                f"{self.layout.label}, and a name that says {of_name}: write {HARMFUL}=FILE or "
                f"{HARMLESS}=FILE"
            )
        return self.layout.label or of_name

    def _check_like_label(self, row: Row) -> None:
        for column, value in row.values.items():
            is_known = column in self.understood or is_empty(value)
            if not is_known and published.is_like_label(column):
                raise InputError(
                    f"{row.place}: the column {column} ({str(value)[:20]!r}) may hold the label: "
                    f"write --columns label={column}:VALUE={HARMFUL},VALUE={HARMLESS}, or "
                    f"drop={column}"
                )

    def _label_of_row(self, row: Row) -> tuple[str | None, str | None]:
        """The label by a column of the row, and that column; no column where there is none."""
        columns = self.columns["label"]
        if not columns:
            if {"type", "focus"} <= set(self.names) and "label" not in self.said.columns_of:
                # Early XSTest: the unsafe ones are the contrasts.
                is_contrast = str(row.values.get("type")).startswith("contrast_")
                return (HARMFUL if is_contrast else HARMLESS), "type"
            return None, None
        cell = self._only(row, columns)
        if cell is None:
            return None, columns[0]
        column, value = cell
        if self.said.labels:
            keys = [str(value).strip().lower()]
            keys += [str(int(value))] if isinstance(value, bool | float) and value == value else []
            key = next((key for key in keys if key in self.said.labels), None)
            if key is None:
                raise InputError(
                    f"{row.place}: {column} is {str(value)[:40]!r}, to which --columns gives no "
                    f"label; it names {listed(self.said.labels, 6)}"
                )
            return self.said.labels[key], column
        label = read_label(value)
        if value == UNLABELLED:
            return None, column
        if label is None and self.source.label is None:
            raise InputError(
                f"{row.place}: {column} {str(value)[:40]!r} is no label; expected one of "
                f"{listed(LABEL_WORDS, 9)}; write --columns label={column}:VALUE={HARMFUL},"
                f"VALUE={HARMLESS}, or label= to leave the column out"
            )
        return label, column

    def _label_of_name(self) -> str | None:
        if self._of_name is None:
            self._of_name = (label_of_name(self.source.named, self.source.name),)
        return self._of_name[0]

    def _check_others(self, row: Row) -> None:
        for column, value in row.values.items():
            if column in self.understood or is_empty(value):
                continue
            is_half = column in {*published.HALVES, *published.MESSAGES, *published.SYSTEM}
            is_half |= column in published.PREFILL
            if is_half or (may_be_prompt(value) and not published.is_no_part(column)):
                main = next((c for c in self.layout.prompt if c in self.names), None)
                join = f"prompt={main}+{column} to join it, or " if main else ""
                raise InputError(
                    f"{row.place}: the column {column} ({str(value)[:40]!r}) may be a part of the "
                    f"prompt: write --columns {join}drop={column} to leave it out"
                )


def checked_text(value: Any, column: str, where: str) -> str:
    """A cell as the text of a prompt.

    Raises:
        InputError: it is no text, is empty, holds a NUL, or half a surrogate pair.
    """
    if is_empty(value):
        raise InputError(f"{where}: the prompt in column {column} is empty")
    if not isinstance(value, str):
        kinds = {int: "number", float: "number", list: "list", dict: "object"}
        kind = kinds.get(type(value), type(value).__name__)
        raise InputError(
            f"{where}: the prompt in column {column} is a {kind} ({str(value)[:40]}), expected text"
        )
    if "\0" in value:
        raise InputError(f"{where}: the prompt in column {column} holds a NUL character")
    return as_type(value, str, f"{where}: {column}")
