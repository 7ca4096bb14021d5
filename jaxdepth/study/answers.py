"""The answer of every exit to every prompt, and its outcome: the generations table."""

import bisect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxdepth.depth.generation import generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import listed
from jaxdepth.model import FastTokenizer, Ints
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import Judge, Outcome, TextOutcome, judge_replies
from jaxdepth.refusal.reference import Reference
from jaxdepth.refusal.thought import is_thought_marker, opens_thought
from jaxdepth.runtime.log import warn
from jaxdepth.study.common_tables import GENERATIONS, NON_FINITE
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.settings import Decoding, ExitStudy
from jaxdepth.study.subject import Subject
from jaxdepth.study.tables import Table

_JUDGED = (
    "text", "score", "refusal_score", "mean_logprob_reference", "repetition", "coherent",
    "topicality",
)  # fmt: skip


class ReadAnswer(NamedTuple):
    """An answer as a run records it."""

    tokens: np.ndarray  # with the end token, or the token that completes a stop string
    text: str
    ended: str
    stop: str | None = None  # the stop string that ended it

    def columns(self) -> dict[str, Any]:
        """Its columns in a table of answers."""
        count = len(self.tokens)
        return {"text": self.text, "n_tokens": count, "ended": self.ended, "stop": self.stop}


@dataclass(frozen=True)
class Answerer:
    """A subject that answers prompts, and the judge of its answers."""

    settings: ExitStudy
    subject: Subject
    reference: Reference
    judge: Judge | None = None

    def rows(self, batch: Batch) -> Callable[[], list[pa.Table]]:
        """Answer a batch; the function that is returned makes its rows, one an answer."""
        model, exits, prompts = self.subject.model, self.subject.exits, self.subject.prompts
        depth, s = model.config.num_hidden_layers, self.settings
        # Full depth always answers, because agreement is measured against it.
        decoded_exits = list(dict.fromkeys([*exits, depth]))
        full_depth = decoded_exits.index(depth)
        generation = generate(
            model,
            batch.tokens_BS,
            batch.lengths_B,
            decoded_exits,
            s.answers.max_new_tokens,
            samples=s.answers.samples,
            sampling=sampling_of(s.decoding),
            seeds_B=prompt_seeds(s.output.seed, prompts, batch),
            stop_tokens=self.subject.end_tokens,
            memory_budget=memory_budget(s.decoding),
        )
        rows = []
        for b, e, m in np.ndindex(len(batch.indices), len(exits), s.answers.samples):
            is_finite, is_full_finite = generation.finite[b, [e, full_depth], m]
            answer, full = (
                self.read_answer(generation.tokens[b, n, m, : generation.lengths[b, n, m]], finite)
                for n, finite in ((e, is_finite), (full_depth, is_full_finite))
            )
            rows.append(
                {
                    "prompt_id": prompts[batch.indices[b]].prompt_id,
                    "exit": exits[e],
                    "sample": m,
                    "agreement": agreement_of(answer, full),
                    "prompt": prompts[batch.indices[b]],
                    **answer.columns(),
                }
            )
        judge = self.judge_rows(rows)
        return lambda: [GENERATIONS.from_rows(judge())]

    def read_answer(self, tokens: np.ndarray, is_finite: bool = True) -> "ReadAnswer":
        """An answer up to its first stop string, and how it ended: eos, stop or length.

        Tokens after the one that completes a stop string do not count: a decoder that looks for it
        would not have generated them.
        """
        if not is_finite:
            return ReadAnswer(tokens, "", NON_FINITE)
        written, ended = tokens, "length"
        if tokens[-1] in self.subject.end_tokens:
            written, ended = tokens[:-1], "eos"
        tokenizer = self.subject.tokenizer
        text = decode_reply(tokenizer, written)
        found = [(text.find(stop), stop) for stop in self.settings.answers.stop if stop in text]
        if not found:
            return ReadAnswer(tokens, text, ended)
        place, stop = min(found)
        lengths = range(1, len(written) + 1)
        completed = bisect.bisect_left(
            lengths, True, key=lambda length: stop in decode_reply(tokenizer, written[:length])
        )
        return ReadAnswer(written[: completed + 1], text[:place], "stop", stop)

    def judge_rows(self, rows: list[dict]) -> Callable[[], list[dict]]:
        """Judge rows that hold a text and its prompt; the outcome replaces the prompt.

        Whole replies are judged: a given start (a prefill) and what follows it. The reference model
        scores them now; the function that is returned judges them.
        """
        texts, prompts = ([row.pop(key) for row in rows] for key in ("text", "prompt"))
        opens = opens_thought(self.subject.encoder.reply_opening)
        replies = [whole_reply(p, text, opens) for p, text in zip(prompts, texts, strict=True)]
        asked = [prompt.asked for prompt in prompts]
        judge = judge_replies(self.reference, replies, asked, judge=self.judge)
        return lambda: self._with_outcomes(rows, texts, judge())

    def _with_outcomes(
        self, rows: list[dict], texts: list[str], outcomes: list[TextOutcome]
    ) -> list[dict]:
        for row, text, judged in zip(rows, texts, outcomes, strict=True):
            row |= {
                "outcome": str(judged.outcome),
                "score": judged.score,
                "refusal_score": judged.refusal_score,
                "mean_logprob_reference": _or_null(judged.mean_logprob),
                "repetition": judged.repetition,
                "coherent": judged.coherent,
                "topicality": _or_null(judged.topicality),
            }
            row["text"] = text if self.settings.texts.keep_text else None
            if row["ended"] == NON_FINITE:
                row |= dict.fromkeys(_JUDGED) | {"outcome": str(Outcome.UNDETERMINED)}
        return rows


def whole_reply(prompt: Prompt, generated: str, opens_thought: bool) -> str:
    """What judges and raters read of a reply: its given start too.

    Args:
        prompt: it answers.
        generated: what the model wrote.
        opens_thought: whether the chat template opens a thought, whose tag the reply then lacks.
    """
    if opens_thought and not prompt.prefill:
        return f"<think>\n{generated}"
    return prompt.reply(generated)


def decode_reply(tokenizer: FastTokenizer, tokens: Ints) -> str:
    """The text of a reply without control tokens, but with those that end or open a thought."""
    markers = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and is_thought_marker(token.content)
    }
    ids = list(map(int, tokens))
    if markers.isdisjoint(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)
    hidden = set(tokenizer.all_special_ids) - markers
    return tokenizer.decode([i for i in ids if i not in hidden])


def _or_null(number: float) -> float | None:
    """A number of a table; null, not NaN, where a text was not scored."""
    return None if np.isnan(number) else number


# The column of a table that says that a row came of NaN or infinity, and what it says then.
_SAYS_NON_FINITE = (
    ("ended", NON_FINITE),
    ("closed_by", NON_FINITE),
    ("entropy", None),
    ("verdict", None),
    ("answer_outcome", None),
)


def warn_non_finite(run: Run, *tables: Table) -> None:
    """Say in one line how many rows of some tables came of logits that are NaN or infinite."""
    counts = []
    for table in tables:
        if not run.finished(table.name):
            continue
        rows = read_frame(run.path, table)
        name, mark = next(of for of in _SAYS_NON_FINITE if of[0] in rows)
        count = int((rows[name].isna() if mark is None else rows[name] == mark).sum())
        if count:
            counts.append(f"{count} of {len(rows)} rows of {table.name}")
    if counts:
        warn(
            f"NaN or infinity in the activations: {', '.join(counts)} have null for their numbers: "
            "run with --dtype float32, or check the checkpoint"
        )


def warn_stops(run: Run, table: Table, stops: Sequence[str]) -> None:
    """Say in one line which stop strings ended none of the answers in a table."""
    if not stops or not run.finished(table.name):
        return
    matched = set(read_frame(run.path, table)["stop"])
    unmatched = [stop for stop in stops if stop not in matched]
    if not unmatched:
        return
    reason = ""
    if any("\\" in stop for stop in unmatched):
        reason = (
            ". A backslash and a letter are two characters: for a line break write $'\\n' in the "
            'shell, or "\\n" in a settings file'
        )
    warn(f"no answer was ended by the stop text {listed(map(repr, unmatched))}{reason}")


def sampling_of(decoding: Decoding) -> Sampling:
    """The sampling of some settings; raises InputError for values out of range."""
    return Sampling(decoding.temperature, decoding.top_k, decoding.top_p)


def memory_budget(decoding: Decoding) -> int:
    """Bytes for caches and logits on a device."""
    return int(decoding.memory_gb * 2**30)


def prompt_seeds(seed: int, prompts: Sequence[Prompt], batch: Batch) -> list[int]:
    """One seed for each row of a batch, padding rows included."""
    return [lane_seed(seed, prompts[n].prompt_id) for n in batch.padded_indices]


def lane_seed(seed: int, prompt_id: str) -> int:
    """The seed of a prompt's samples; other prompts of the run have no part in it."""
    return zlib.crc32(f"{seed} {prompt_id}".encode()) & 0x7FFFFFFF


def agreement_of(answer: ReadAnswer, full: ReadAnswer) -> float | None:
    """The agreement of an answer with full depth's; None where either is not finite."""
    if NON_FINITE in (answer.ended, full.ended):
        return None
    return agreement(answer.tokens, full.tokens)


def agreement(tokens: Ints, full: Ints) -> float:
    """The share of the longer answer's positions at which both have the same token."""
    equal = sum(a == b for a, b in zip(tokens, full, strict=False))
    return equal / max(len(tokens), len(full))
