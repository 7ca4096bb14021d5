"""The answers of a run, with their texts: what is labelled, and what labels correct."""

import hashlib
from pathlib import Path

import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.study.common_tables import (
    EXIT,
    GENERATIONS,
    NON_FINITE,
    PROMPT_ID,
    check_once,
    prompt_rows,
)
from jaxdepth.study.prompting.sets import read_prompts_of
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.study.tables import Column, Table

KEY = ["prompt_id", "exit", "sample"]  # names an answer of a run
_VOTE = Column("vote", "int32", "number of the sampled thought, from 0")
# What is read here of the tables of `jaxdepth decide`, which builds on this study.
DECIDED = Table(
    "verdicts",
    "a sampled thought of a prompt at an exit",
    (
        PROMPT_ID,
        EXIT,
        _VOTE,
        Column("closed_by", "string", "what ended the thought; non-finite where nothing was said"),
        Column("answer_outcome", "string", "outcome of the answer; null without one"),
    ),
)
_SAID = Table(
    "texts",
    "a sampled thought of a prompt at an exit",
    (PROMPT_ID, EXIT, _VOTE, Column("answer", "string", "text after the verdict, or null")),
)
_TABLES = {"sweep": GENERATIONS, "decide": DECIDED}  # by command


def read_answers(run_path: str | Path) -> pd.DataFrame:
    """Every answer of a run, sorted: prompt_id, exit, sample, text, outcome, and of its prompt the
    text with earlier turns (`prompt`), `label`, `group` (source and label) and `pair` (itself, if
    it has none).

    Raises:
        InputError: it is no finished run of sweep or decide, or its texts were not kept.
    """
    record = read_record(run_path)
    command = record["settings"].get("command", "tune")
    if command not in _TABLES:
        raise InputError(
            f"{run_path} is a run of {command}: expected one of `jaxdepth sweep` without --policy, "
            "or of `jaxdepth decide`"
        )
    table = _TABLES[command]
    if table.name not in record["tables"]:
        raise InputError(
            f"{run_path} has no finished table {table.name}: it has no answers to label"
        )
    answers = read_frame(run_path, table)
    if command == "decide":
        answers = _join_texts(run_path, answers, "texts" in record["tables"])
    elif "ended" in answers:  # nothing was said where logits were NaN or infinite
        answers = answers[answers["ended"] != NON_FINITE]
    if answers.empty:
        raise InputError(f"{run_path} has no answer to label: activations were NaN or infinite")
    if answers["text"].isna().any():
        raise InputError(f"{run_path} did not keep its texts: run it again with --keep-text")
    of_answer = prompt_rows(run_path, answers["prompt_id"].tolist()).reset_index()
    answers = answers[[*KEY, "text", "outcome"]].reset_index(drop=True)
    asked = read_prompts_of(run_path)
    if command != "decide":  # a given start of a reply is read as part of it
        pairs = zip(answers["prompt_id"], answers["text"], strict=True)
        answers["text"] = [asked[name].reply(text) for name, text in pairs]
    answers["prompt"] = [asked[name].asked for name in answers["prompt_id"]]
    answers["label"] = of_answer["label"]
    answers["group"] = of_answer["source"] + " " + of_answer["label"]
    answers["pair"] = of_answer["pair_id"].fillna(of_answer["prompt_id"])
    return answers.sort_values(KEY, ignore_index=True)


def _join_texts(run_path: str | Path, verdicts: pd.DataFrame, has_texts: bool) -> pd.DataFrame:
    """The answers after the verdicts of a run of decide."""
    if not has_texts:
        raise InputError(f"{run_path} did not keep its texts: run it again with --keep-text")
    verdicts = verdicts[verdicts["closed_by"] != NON_FINITE]
    if verdicts["answer_outcome"].isna().any():
        raise InputError(
            f"{run_path} has verdicts without an answer: run it again with answers and without "
            "--abstain-below"
        )
    texts = read_frame(run_path, _SAID)[["prompt_id", "exit", "vote", "answer"]]
    key = ["prompt_id", "exit", "vote"]
    for table, frame in ((DECIDED, verdicts), (_SAID, texts)):
        check_once(frame, key, f"{run_path}: the table {table.name}")
    joined = verdicts.merge(texts, on=key)
    names = {"vote": "sample", "answer": "text", "answer_outcome": "outcome"}
    return joined.rename(columns=names)


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def item_id(prompt: str, text: str) -> str:
    """The name of a text to label: it tells nothing of the model and the exit.

    Answers that are equal, to equal prompts, are one text: it is labelled once.
    """
    return text_digest(f"{prompt}\0{text}")[:12]
