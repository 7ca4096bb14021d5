"""The answers that a run has kept, whatever command made it."""

from pathlib import Path

import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.common_tables import GENERATIONS, NON_FINITE, PROMPTS
from jaxdepth.study.policies.tables import DYNAMIC
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE

LANE = ["prompt_id", "exit", "rule", "sample"]  # the columns that name an answer


def read_prompts_of(run_path: Path) -> dict[str, Prompt]:
    """The prompts of a run by their ids."""
    rows = read_frame(run_path, PROMPTS).astype(object)
    rows = rows.where(rows.notna(), None)
    return {row["prompt_id"]: Prompt(**row) for row in rows.to_dict("records")}


def read_answers(run_path: Path) -> pd.DataFrame:
    """The answers of a run: the columns of `LANE`, `text`, and the run's own `outcome`.

    A template that opens a thought leaves its tag out of the text; it is put in front again.

    Raises:
        InputError: there is no finished run, it is of a command that keeps no answers, or it does
            not keep its texts.
    """
    record = read_record(run_path)
    settings = record["settings"]
    command = settings.get("command")
    if command not in ("sweep", "sweep --policy", "decide"):
        raise InputError(
            f"{run_path} is no run of sweep or decide: it keeps no answers that could be judged"
        )
    if not settings.get("keep_text", True):
        raise InputError(
            f"{run_path} keeps no texts (--no-keep-text): run it again with them, to another --out"
        )
    if command == "sweep" and not settings.get("max_new_tokens", 1):
        raise InputError(f"{run_path} has no answers (--max-new-tokens 0): nothing can be judged")
    if command == "sweep":
        answers = read_frame(run_path, GENERATIONS).assign(rule=None)
    elif command == "sweep --policy":
        answers = read_frame(run_path, DYNAMIC).assign(exit=None)
    else:
        texts = read_frame(run_path, TEXTS)[["prompt_id", "exit", "vote", "answer"]]
        verdicts = read_frame(run_path, VERDICT_TABLE)
        answers = verdicts.merge(texts, on=["prompt_id", "exit", "vote"], validate="one_to_one")
        renamed = {"vote": "sample", "answer": "text", "answer_outcome": "outcome"}
        answers = answers.rename(columns=renamed).assign(rule=None)
    for name in {"ended", "closed_by"} & {*answers.columns}:
        answers = answers[answers[name] != NON_FINITE]  # nothing was said
    answers = answers[[*LANE, "text", "outcome"]]
    if command != "decide" and record["facts"].get("opens_thought"):
        answers["text"] = "<think>\n" + answers["text"]
    # No outcome: no answer was shown.
    return answers[answers["outcome"].notna()].reset_index(drop=True)
