"""What each rater has labelled in a run: labels/RATER.json, complete or absent after a kill.

A file has the labels of texts by their ids (`answers.item_id`), in the order in which they were
given, and a digest of itself. The table labels is made of these files.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.records import read_record_as
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.atomic_files import atomic_write
from jaxdepth.study.common_tables import check_once
from jaxdepth.study.labelling.answers import KEY, item_id
from jaxdepth.study.labelling.tables import LABELS
from jaxdepth.study.run_directory import Run, read_frame, read_record

FOLDER = "labels"
_NAME = r"\w[\w.-]{0,39}"


@dataclass(frozen=True)
class Rater:
    """The labels of one rater in one run."""

    name: str
    place: int  # 0 for the rater who began first
    labels: Mapping[str, str]  # outcome by id of the text


class _File(TypedDict):
    """What a file of labels holds."""

    rater: str
    place: int
    labels: dict[str, str]  # outcome by id of the text


def read_raters(run_path: str | Path) -> dict[str, Rater]:
    """The raters of a run by name, in the order in which they began.

    Raises:
        InputError: a file of labels was damaged.
    """
    files = sorted((Path(run_path) / FOLDER).glob("*.json"))
    raters = sorted((_read(file) for file in files), key=lambda rater: rater.place)
    return {rater.name: rater for rater in raters}


def read_rater(run_path: str | Path, name: str) -> Rater:
    """The labels of one rater, or none yet.

    Raises:
        InputError: the name cannot be that of a file, or the file was damaged.
    """
    if not re.fullmatch(_NAME, name):
        raise InputError(
            f"the rater's name is {name!r}: use up to 40 letters, digits, and . - _ after the first"
        )
    raters = read_raters(run_path)
    return raters.get(name, Rater(name, len(raters), {}))


def save_rater(run_path: str | Path, rater: Rater) -> None:
    """Write all labels of a rater; what was there before stays until the new file is complete."""
    folder = Path(run_path) / FOLDER
    folder.mkdir(exist_ok=True)
    content = {"rater": rater.name, "place": rater.place, "labels": dict(rater.labels)}
    text = json.dumps(content | {"sha256": _digest(content)}, indent=1, ensure_ascii=False) + "\n"
    file = folder / f"{rater.name}.json"
    atomic_write(file, lambda path: path.write_text(text, encoding="utf-8"))


def _read(file: Path) -> Rater:
    content = read_json(file, "remove it; its labels are lost")
    digest = content.pop("sha256", None) if isinstance(content, dict) else None
    if digest is None or digest != _digest(content):
        raise InputError(f"{file} is damaged: restore it, or remove it and label again")
    content = read_record_as(_File, content, str(file), "remove it and label again")
    return Rater(content["rater"], content["place"], content["labels"])


def _digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_labels(run_path: str | Path, plan: pd.DataFrame, answers: pd.DataFrame) -> None:
    """Write the table labels: the labels of all raters, without texts."""
    texts = plan.merge(answers[[*KEY, "prompt", "text"]], on=KEY)
    ids = list(map(item_id, texts["prompt"], texts["text"]))
    parts = []
    for rater in read_raters(run_path).values():
        part = texts.assign(
            run=Path(run_path).resolve().name,
            rater=rater.name,
            label=list(map(rater.labels.get, ids)),
        )
        parts.append(part[part["label"].notna()])
    if parts:
        table = LABELS.from_frame(pd.concat(parts, ignore_index=True))
        Run(Path(run_path), read_record(run_path)).write_table(LABELS.name, table)


def read_labels(run_path: str | Path) -> pd.DataFrame:
    """The table labels of a run.

    Raises:
        InputError: it is damaged, or has a label that is no outcome.
    """
    labels = read_frame(run_path, LABELS)
    check_once(labels, ["rater", *KEY], f"{run_path}: the table {LABELS.name}")
    if not labels["label"].isin([*map(str, Outcome)]).all():
        raise InputError(
            f"{run_path}: the table {LABELS.name} has a label that is no outcome: it is damaged; "
            "remove labels.parquet, and label again"
        )
    return labels


def restore_raters(run_path: str | Path, answers: pd.DataFrame) -> None:
    """Write the files of raters that only the table labels has, as in a copy of a run's tables."""
    if LABELS.name not in read_record(run_path)["tables"]:
        return
    labels = read_labels(run_path).merge(answers[[*KEY, "prompt", "text"]], on=KEY)
    known = read_raters(run_path)
    for place, name in enumerate(labels["rater"].unique()):
        if name not in known:
            own = labels[labels["rater"] == name]
            ids = map(item_id, own["prompt"], own["text"])
            save_rater(run_path, Rater(name, place, dict(zip(ids, own["label"], strict=True))))


def parse_label(word: str) -> str | None:
    """The outcome of that name or of that first letter, or None."""
    word = word.strip().lower()
    return next((str(o) for o in Outcome if word in (str(o), str(o)[0])), None)
