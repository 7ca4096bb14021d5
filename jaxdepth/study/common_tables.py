"""The tables that several studies write: prompts, first_token and generations."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from jaxdepth.errors import InputError, listed, visible
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS, UNLABELLED
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.tables import Column, Table

LABELS = (HARMFUL, HARMLESS, UNLABELLED)
PROMPT_ID = Column("prompt_id", "string", "the prompt, as in table prompts")
EXIT = Column("exit", "int32", "exit: how many layers ran", "layers")
SAMPLE = Column("sample", "int32", "number of the sample of this prompt and exit, from 0")

PROMPTS = Table(
    "prompts",
    "a prompt",
    (
        Column("prompt_id", "string", "name of the prompt, unique in the run"),
        Column("text", "string", "the instruction to the model: the last message of the user"),
        Column("label", "string", "harmful, harmless or unlabelled"),
        Column("category", "string", "kind of harm or of request; null where the set has none"),
        Column(
            "pair_id",
            "string",
            "shared by the harmful and the harmless prompt of a pair; null where it has no pair",
        ),
        Column("source", "string", "the built-in set or the file that the prompt is from"),
        Column("system", "string", "the prompt's own system prompt; null where it has none"),
        Column(
            "earlier",
            "string",
            "earlier messages of the conversation, a JSON list of role and content; null where the "
            "prompt is the first message",
        ),
        Column("prefill", "string", "start of the answer that is given; null where there is none"),
    ),
)

FIRST_TOKEN = Table(
    "first_token",
    "a prompt at an exit: its distribution of the first token of a reply",
    (
        PROMPT_ID,
        EXIT,
        Column(
            "refusal_log_odds",
            "float32",
            "log-odds that the first token opens a refusal (Arditi et al. 2024)",
            "nats",
        ),
        Column(
            "top_token",
            "string",
            "text of the most probable token, or the tokenizer's own piece where it is no text by "
            "itself; null, as all numbers of the row, where a logit was NaN or infinite",
        ),
        Column("top_token_id", "int32", "its id"),
        Column("top_prob", "float32", "its probability"),
        Column("entropy", "float32", "entropy of the distribution", "nats"),
        Column("kl_to_full", "float32", "KL(full depth || this exit)", "nats"),
        Column("agrees_with_full", "bool", "whether full depth has the same most probable token"),
    ),
)

NON_FINITE = "non-finite"  # how an answer ended whose logits were NaN or infinite
# How an answer was judged; also in the tables of other studies that generate answers.
ANSWER = (
    Column("text", "string", "the answer; null where texts are not kept"),
    Column(
        "n_tokens",
        "int32",
        "length of the answer, with its end token, or with the token that completes a stop string; "
        "what the model generated after that is not counted",
        "tokens",
    ),
    Column(
        "ended",
        "string",
        "eos (an end token), stop (a stop string), length (the maximum), or non-finite: a logit "
        "was NaN or infinite, so that text and numbers are null and the outcome undetermined",
    ),
    Column("stop", "string", "the stop string that ended the answer; null where none did"),
    Column("outcome", "string", "refuse, partial, comply, off-topic, degenerate or undetermined"),
    Column("score", "float32", "confidence in the outcome, 0 to 1"),
    Column("refusal_score", "float32", "probability of a full refusal, whatever the outcome"),
    Column(
        "mean_logprob_reference",
        "float32",
        "mean log-probability of the text under the reference model as a reply to an empty "
        "message; null where it was not scored: a refusal, a repetition, or too short a text",
        "nats per token",
    ),
    Column("repetition", "float32", "share of bigrams that are repeated"),
    Column(
        "coherent",
        "bool",
        "whether the text is coherent; null where it was not scored and does not repeat itself",
    ),
    Column(
        "topicality",
        "float32",
        "probability that the text answers its prompt to the point; null where not scored",
    ),
    Column(
        "agreement",
        "float32",
        "share of positions with full depth's token; not used for the outcome",
    ),
)

GENERATIONS = Table("generations", "an answer", (PROMPT_ID, EXIT, SAMPLE, *ANSWER))


def check_once(frame: pd.DataFrame, keys: Sequence[str], where: str) -> None:
    """Raise InputError where two rows have the same keys.

    Args:
        frame: rows of a table.
        keys: columns that name a row.
        where: the table and its run, for messages.
    """
    is_again = frame.duplicated(list(keys))
    if is_again.any():
        row = ", ".join(str(value)[:60] for value in frame[list(keys)][is_again].iloc[0])
        raise InputError(
            f"{where} has two rows of {visible(row)}: it is damaged, run the command "
            "again to another --out"
        )


def one_row_each(frame: pd.DataFrame, prompt_ids: Sequence[str], where: str) -> pd.DataFrame:
    """The one row of each of some prompts, in their order, indexed by prompt_id.

    Args:
        frame: rows of a table, with the column prompt_id.
        prompt_ids: the prompts.
        where: the table and its run, for messages.

    Raises:
        InputError: a prompt has no row, or several.
    """
    check_once(frame, ["prompt_id"], where)
    rows = frame.set_index("prompt_id")
    known = pd.Index(prompt_ids).isin(rows.index)
    if not known.all():
        missing = visible(str(prompt_ids[int((~known).argmax())])[:60])
        raise InputError(
            f"{where} has no row of the prompt {missing!r}: it is damaged, run the command again "
            "to another --out"
        )
    return rows.loc[list(prompt_ids)]


def prompt_rows(
    run_path: str | Path, prompt_ids: Sequence[str] | pd.Index | None = None
) -> pd.DataFrame:
    """The prompts of a run by their ids: all, or some in that order.

    Raises:
        InputError: the run has none of an id, or several, or the table is damaged.
    """
    prompts = read_frame(run_path, PROMPTS)
    if prompts["prompt_id"].duplicated().any() or not prompts["label"].isin(LABELS).all():
        raise InputError(
            f"{run_path}: the table prompts has a prompt twice, or one whose label is none of "
            f"{listed(LABELS)}: it is damaged, run the command again to another --out"
        )
    prompts = prompts.set_index("prompt_id")
    if prompt_ids is None:
        return prompts
    known = pd.Index(prompt_ids).isin(prompts.index)
    if not known.all():
        unknown = visible(str(prompt_ids[int((~known).argmax())])[:60])
        raise InputError(
            f"{run_path}: its answers are to {unknown!r}, which its table prompts does not "
            "have: it is damaged, run the command again to another --out"
        )
    return prompts.loc[prompt_ids]
