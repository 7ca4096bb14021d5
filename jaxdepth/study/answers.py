"""The answer of every exit to every prompt, and its outcome: the generations table."""

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jaxdepth.depth.generation import generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer, Ints
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import Judge, Outcome, TextOutcome, judge_replies
from jaxdepth.refusal.reference import Reference
from jaxdepth.refusal.thought import is_thought_marker, opens_thought
from jaxdepth.runtime.distributed import is_first
from jaxdepth.study.common_tables import GENERATIONS, NON_FINITE
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.settings import Decoding, ExitStudy
from jaxdepth.study.subject import Subject

_JUDGED = (
    "text", "score", "refusal_score", "mean_logprob_reference", "repetition", "coherent",
    "topicality",
)  # fmt: skip


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
            tokens = generation.tokens[b, e, m, : generation.lengths[b, e, m]]
            full = generation.tokens[b, full_depth, m, : generation.lengths[b, full_depth, m]]
            is_finite, is_full_finite = generation.finite[b, [e, full_depth], m]
            text, ended = self.decode_text(tokens) if is_finite else ("", NON_FINITE)
            rows.append(
                {
                    "prompt_id": prompts[batch.indices[b]].prompt_id,
                    "exit": exits[e],
                    "sample": m,
                    "text": text,
                    "n_tokens": len(tokens),
                    "ended": ended,
                    "agreement": agreement(tokens, full) if is_finite and is_full_finite else None,
                    "prompt": prompts[batch.indices[b]].text,
                }
            )
        judge = self.judge_rows(rows)
        return lambda: [GENERATIONS.from_rows(judge())]

    def decode_text(self, tokens: np.ndarray) -> tuple[str, str]:
        """The text of an answer before its first stop string, and its end: eos, stop or length."""
        ended = "length"
        if tokens[-1] in self.subject.end_tokens:
            tokens, ended = tokens[:-1], "eos"
        text = decode_reply(self.subject.tokenizer, tokens)
        stops = [text.find(stop) for stop in self.settings.answers.stop if stop in text]
        return (text[: min(stops)], "stop") if stops else (text, ended)

    def judge_rows(self, rows: list[dict]) -> Callable[[], list[dict]]:
        """Judge rows that hold a text and its prompt; the outcome replaces the prompt.

        The reference model scores the texts now; the function that is returned judges them.
        """
        texts, prompts = ([row.pop(key) for row in rows] for key in ("text", "prompt"))
        # A template that opens a thought leaves its tag out of the reply.
        opening = "<think>\n" if opens_thought(self.subject.encoder.reply_opening) else ""
        replies = [opening + text for text in texts]
        judge = judge_replies(self.reference, replies, prompts, judge=self.judge)
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


def warn_non_finite(run: Run, *tables: str) -> None:
    """Say in one line how many rows of some tables came of logits that are NaN or infinite."""
    counts = []
    for table in filter(run.finished, tables):
        rows = read_table(run.path, table)
        name, mark = next(of for of in _SAYS_NON_FINITE if of[0] in rows.column_names)
        count = rows[name].to_pylist().count(mark)
        if count:
            counts.append(f"{count} of {len(rows)} rows of {table}")
    if counts and is_first():
        print(
            f"jaxdepth: warning: NaN or infinity in the activations: {', '.join(counts)} have null "
            "for their numbers: run with --dtype float32, or check the checkpoint",
            file=sys.stderr,
        )


def sampling_of(decoding: Decoding) -> Sampling:
    """The sampling of some settings; raises InputError for values out of range."""
    return Sampling(decoding.temperature, decoding.top_k, decoding.top_p)


def memory_budget(decoding: Decoding) -> int:
    """Bytes for caches and logits on a device; raises InputError unless there are some."""
    if not decoding.memory_gb > 0:
        raise InputError(f"memory_gb is {decoding.memory_gb}, expected more than 0")
    return int(decoding.memory_gb * 2**30)


def prompt_seeds(seed: int, prompts: Sequence[Prompt], batch: Batch) -> list[int]:
    """One seed for each row of a batch, padding rows included."""
    return [lane_seed(seed, prompts[n].prompt_id) for n in batch.padded_indices]


def lane_seed(seed: int, prompt_id: str) -> int:
    """The seed of a prompt's samples; other prompts of the run have no part in it."""
    return zlib.crc32(f"{seed} {prompt_id}".encode()) & 0x7FFFFFFF


def agreement(tokens: Ints, full: Ints) -> float:
    """The share of the longer answer's positions at which both have the same token."""
    equal = sum(a == b for a, b in zip(tokens, full, strict=False))
    return equal / max(len(tokens), len(full))
