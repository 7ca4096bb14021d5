"""The answers that a run has kept, whatever command made it."""

from pathlib import Path

import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.study.answers import whole_reply
from jaxdepth.study.common_tables import GENERATIONS, NON_FINITE, check_once
from jaxdepth.study.policies.tables import DYNAMIC
from jaxdepth.study.prompting.sets import read_prompts_of
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE

LANE = ["prompt_id", "exit", "rule", "sample"]  # the columns that name an answer


def read_answers(run_path: Path) -> pd.DataFrame:
    """The answers of a run: the columns of `LANE`, `text`, and the run's own `outcome`.

    A text is the whole reply: its given start, or the tag of a thought that the template opened, is
    in front of it.

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
        key = ["prompt_id", "exit", "vote"]
        texts = read_frame(run_path, TEXTS)[[*key, "answer"]]
        verdicts = read_frame(run_path, VERDICT_TABLE)
        for table, frame in ((TEXTS, texts), (VERDICT_TABLE, verdicts)):
            check_once(frame, key, f"{run_path}: the table {table.name}")
        answers = verdicts.merge(texts, on=key)
        renamed = {"vote": "sample", "answer": "text", "answer_outcome": "outcome"}
        answers = answers.rename(columns=renamed).assign(rule=None)
    for name in {"ended", "closed_by"} & {*answers.columns}:
        answers = answers[answers[name] != NON_FINITE]  # nothing was said
    # No outcome: no answer was shown.
    answers = answers.loc[answers["outcome"].notna(), [*LANE, "text", "outcome"]]
    if answers.empty:
        raise InputError(
            f"{run_path} has no answer to judge: none was shown, or activations were NaN or "
            "infinite"
        )
    if answers["text"].isna().any():
        raise InputError(
            f"{run_path} has answers without a text: it is damaged, run the command again to "
            "another --out"
        )
    prompts = read_prompts_of(run_path, answers["prompt_id"].tolist())
    if command != "decide":
        opens = bool(record["facts"].get("opens_thought"))
        pairs = zip(answers["prompt_id"], answers["text"], strict=True)
        answers["text"] = [whole_reply(prompts[name], text, opens) for name, text in pairs]
    return answers.reset_index(drop=True)
