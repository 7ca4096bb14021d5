"""Knowledge at every exit, from one pass: a multiple-choice score of each question.

Each question is encoded in the chat template, and the reply begins with `The answer is`. The score
compares the log-probability of the right answer's first token with those of the wrong ones: an exit
knows the answer if it ranks the right one first. A sweep over the same questions shows whether the
model also generates it.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from jaxdepth.depth.exits import exit_logits
from jaxdepth.errors import InputError
from jaxdepth.files import read_text
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import shard, to_host
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.prompts.prompt import Message
from jaxdepth.records import read_record_as
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.checkpoints.paired import Curve, paired_rows
from jaxdepth.study.checkpoints.tables import (
    GENERAL,
    KNOWLEDGE,
    MARGIN,
    NEIGHBOURING,
    NEIGHBOURING_MINUS_GENERAL,
    RIGHT,
)
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.prompting.sets import system_text
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.subject import open_subject

LEAD = "The answer is"
# The resolved settings of a run that decide its knowledge table.
_DECISIVE: tuple[str, ...] = ("model_fingerprint", "adapter_sha256", "dtype", "exits", "batch_size")
_DECISIVE += ("tokenizer_sha256", "template_sha256", "date", "system")
_DECISIVE += ("steer", "directions_sha256", "direction", "steer_layers", "steer_scale")


@dataclass(frozen=True)
class Question:
    """A knowledge question with one short right answer and wrong ones of the same kind."""

    prompt_id: str
    domain: str  # general, or neighbouring: sounds dangerous and is not
    category: str | None
    text: str
    right: str
    wrong: tuple[str, ...]


class _Row(TypedDict):
    """A line of a knowledge set."""

    question: str
    right: str
    wrong: list[str]
    prompt_id: NotRequired[str | None]
    domain: NotRequired[str | None]
    category: NotRequired[str | None]


def read_questions(name: str) -> list[Question]:
    """A knowledge set: `builtin:facts`, or a .jsonl file of `question`, `right` and `wrong`.

    Raises:
        InputError: no such file, or a line of it is no question.
    """
    if name == "builtin:facts":
        text = (files("jaxdepth") / "data" / "facts.jsonl").read_text("utf-8")
    elif Path(name).is_file():
        text = read_text(Path(name))
    else:
        raise InputError(f"no knowledge set {name}: expected builtin:facts or a .jsonl file")
    lines = enumerate(text.split("\n"), start=1)
    questions = [_parse_question(line, f"{name}, line {n}", n) for n, line in lines if line.strip()]
    if not questions:
        raise InputError(f"{name} holds no questions: expected one a line")
    if len({q.prompt_id for q in questions}) < len(questions):
        raise InputError(f"{name}: prompt ids repeat; give each question its own")
    return questions


def questions_digest(questions: Sequence[Question]) -> str:
    """SHA-256 of a knowledge set."""
    return hashlib.sha256(json.dumps([astuple(q) for q in questions]).encode()).hexdigest()


def encode_question(
    conversations: ConversationEncoder, question: Question, system: str | None = None
) -> tuple[list[int], list[int]] | None:
    """Token ids up to the answer, and the first token of each answer, the right one's first.

    None if the tokenizer merges an answer into the text before it, or if the right answer's first
    token is also that of a wrong one.
    """
    encoder = conversations.encoder
    lead = encoder.reply(LEAD)
    options = []
    for answer in (question.right, *question.wrong):
        ids = encoder.reply(f"{LEAD} {answer}")
        if ids[: len(lead)] != lead or len(ids) == len(lead):
            return None
        options.append(ids[len(lead)])
    if options[0] in options[1:]:
        return None
    before = [] if system is None else [Message("system", system)]
    return conversations.encode([*before, Message("user", question.text)]) + lead, options


@one_at_a_time(lambda settings: settings.output.out)
def measure_knowledge(
    settings: Probe, questions: Sequence[Question], bar: ProgressBar = silent
) -> Run:
    """Write facts.parquet to the run `settings.output.out`: every question at every exit.

    Questions whose answers the tokenizer cannot tell apart by their first token are left out.

    Raises:
        InputError: something in the settings or the checkpoint is wrong; no question is left.
    """
    if settings.prompts.prefill:
        raise InputError("questions have a start of a reply of their own: leave --prefill out")
    subject = open_subject(settings)
    system = system_text(settings.prompts.system)
    encode = functools.partial(encode_question, subject.loaded.conversations, system=system)
    encoded = [(question, encode(question)) for question in questions]
    usable = [question for question, tokens in encoded if tokens is not None]
    if not usable:
        raise InputError("no question's answers differ in their first token: use other questions")
    ids, options = zip(*(tokens for _, tokens in encoded if tokens is not None), strict=True)
    resolved = subject.resolved()
    run = subject.open_run(
        {key: resolved.get(key) for key in _DECISIVE}
        | {"command": "facts", "facts_sha256": questions_digest(questions)},
        with_prompts=False,
        left_out=[question.prompt_id for question, tokens in encoded if tokens is None],
    )
    max_options = max(map(len, options))
    # A wrong answer more than once changes nothing.
    options_NO = np.array([o + o[-1:] * (max_options - len(o)) for o in options])

    def rows(batch: Batch) -> OnHost:
        logprob_BEO = option_logprobs(subject.model, batch, subject.exits, options_NO)
        margin_BE = logprob_BEO[..., 0] - logprob_BEO[..., 1:].max(axis=-1)
        exits, of_batch = subject.exits, [usable[n] for n in batch.indices]
        columns: dict[str, Any] = {
            name: [getattr(question, name) for question in of_batch for _ in exits]
            for name in ("prompt_id", "domain", "category")
        }
        columns |= {
            "exit": np.tile(exits, len(of_batch)),
            "logprob": logprob_BEO[..., 0].ravel(),
            "margin": margin_BE.ravel(),
            "right": margin_BE.ravel() > 0,
        }
        return lambda: [KNOWLEDGE.from_columns(columns)]

    batches = make_batches(ids, settings.prompts.batch_size, subject.model.mesh)
    in_parts(run, (KNOWLEDGE.name,), batches, rows, bar)
    return run


def option_logprobs(
    model: Mistral, batch: Batch, exits: Sequence[int], options_NO: Int[np.ndarray, "N O"]
) -> Float[np.ndarray, "B E O"]:
    """Log-probabilities of O candidate next tokens of each prompt, at every exit."""
    tokens_BS = shard(batch.tokens_BS, "BS", model.mesh)
    lengths_B = shard(batch.lengths_B, "B", model.mesh)
    options_BO = shard(options_NO[list(batch.padded_indices)], "BO", model.mesh)
    logprob_EBO = _option_logprobs(model, tokens_BS, lengths_B, np.array(exits), options_BO)
    return to_host(logprob_EBO).swapaxes(0, 1)[: len(batch.indices)]


@jax.jit
def _option_logprobs(model, tokens_BS, lengths_B, exits_E, options_BO):
    all_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))
    logits_EBV = all_exits(model, tokens_BS, lengths_B, exits_E)
    chosen_EBO = jnp.take_along_axis(logits_EBV, options_BO[None], axis=-1)
    return chosen_EBO - jax.nn.logsumexp(logits_EBV, axis=-1, keepdims=True)


def compare_knowledge(base: Path, against: Path, resamples: int, seed: int) -> pd.DataFrame:
    """Rows of `against` for the same questions in two runs, paired by question.

    Questions that can be scored with only one of the tokenizers are left out.

    Raises:
        InputError: no question can be scored with both.
    """
    frames = [read_frame(path, KNOWLEDGE) for path in (base, against)]
    ids = np.array(sorted(set(frames[0]["prompt_id"]) & set(frames[1]["prompt_id"])))
    if not len(ids):
        raise InputError("no question can be scored with the tokenizers of both checkpoints")
    exits = sorted(frames[0]["exit"].unique().tolist())
    domains = frames[0].drop_duplicates("prompt_id").set_index("prompt_id")["domain"]
    domain_N = domains.loc[ids].to_numpy()
    parts = []
    for measure in (RIGHT, MARGIN):
        base_NE, against_NE = (_values(frame, measure, ids, exits) for frame in frames)
        curves = {}
        for d, domain in enumerate(sorted(set(domain_N))):
            in_domain_N = domain_N == domain
            counts_RN = resample_counts(ids[in_domain_N], resamples, seed + d)
            share_RN = counts_RN / counts_RN.sum(axis=1, keepdims=True)
            pair = [
                Curve(value_NE.mean(axis=0), share_RN @ value_NE, len(value_NE))
                for value_NE in (base_NE[in_domain_N], against_NE[in_domain_N])
            ]
            parts.append(paired_rows(measure, domain, int(in_domain_N.sum()), exits, *pair))
            curves[domain] = pair
        if {GENERAL, NEIGHBOURING} <= set(curves):
            pair = [a - b for a, b in zip(curves[NEIGHBOURING], curves[GENERAL], strict=True)]
            parts.append(paired_rows(measure, NEIGHBOURING_MINUS_GENERAL, len(ids), exits, *pair))
    return pd.concat(parts, ignore_index=True)


def _values(
    frame: pd.DataFrame, measure: str, ids: Int[np.ndarray, " N"], exits: Sequence[int]
) -> Float[np.ndarray, "N E"]:
    table = frame.pivot(index="prompt_id", columns="exit", values=measure)
    return np.ascontiguousarray(table.loc[ids, exits], dtype=float)


def _parse_question(line: str, where: str, number: int) -> Question:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error})") from None
    row = read_record_as(_Row, parsed, where, "mend it")
    texts = [row["question"], row["right"], *row["wrong"]]
    if len(texts) < 3 or not all(text.strip() for text in texts):
        raise InputError(
            f"{where}: expected texts in question and right, and a list of them in wrong"
        )
    return Question(
        prompt_id=row.get("prompt_id") or f"facts-{number:03d}",
        domain=row.get("domain") or GENERAL,
        category=row.get("category"),
        text=texts[0],
        right=texts[1],
        wrong=tuple(texts[2:]),
    )
