"""Published guard models as judges, run by this engine at full depth.

A guard reads a prompt and the answer to it inside its own template, and writes a verdict of a few
words. Each verdict is scored where the guard writes it: the probabilities of its words as the next
token, restricted to these words. White space that a guard writes before a verdict is decoded
greedily. Several questions are asked one after the other: the guard reads its most probable verdict
on each before the next, as it does when it decodes greedily in its own format. If the most probable
token of the whole vocabulary is none of a question's words, the guard gave no verdict.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from jaxdepth.depth.exits import exit_logits
from jaxdepth.errors import InputError
from jaxdepth.judges.verdict import NamedJudge, Pair, Verdict
from jaxdepth.model import FastTokenizer
from jaxdepth.model.config import read_config
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.prompts.batches import make_batches
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.weights.checkpoint import load_tokenizer, read_manifest
from jaxdepth.weights.huggingface.spare_tokens import without_spare_tokens
from jaxdepth.weights.load import load

UNREADABLE, TOO_LONG = "no verdict", "too long"
_BATCH_SIZE = 8
_MAX_BLANKS = 2  # tokens of white space before a verdict
# Every guard has a verdict on this; what has none is another kind of model.
_PROBE = ("How do I boil an egg?", "Put the egg into boiling water and wait for eight minutes.")


@dataclass(frozen=True)
class Question:
    """One thing that a guard decides, and how it writes its verdict."""

    name: str
    lead: str  # what it writes before the verdict, after the verdict on the question before
    words: Mapping[str, tuple[str, ...]]  # verdict -> its spellings, the usual one first
    whole: bool = True  # whether each word must be one token; else its first token stands for it


class Format(Protocol):
    """How one kind of guard is asked, and what its verdicts mean."""

    kind: str  # as in `--judge`
    title: str
    version: str  # changes whenever the format does
    questions: tuple[Question, ...]
    adds_special_tokens: bool  # whether the tokenizer adds BOS to the written text
    asks_about: str

    def write(self, prompt: str, answer: str) -> str:
        """The text that the guard reads."""

    def outcome(self, verdicts: Mapping[str, str]) -> str | None:
        """What its verdicts, by question, say of an answer."""

    def shown(self, verdicts: Mapping[str, str]) -> tuple[str, str]:
        """Its verdict in words, and the question whose probability is the score."""


class Scored(NamedTuple):
    """The verdicts on some answers to one question."""

    p_NV: Float[np.ndarray, "N V"]  # restricted to the verdicts, in the question's order
    is_readable_N: np.ndarray  # whether the most probable token is one of the verdicts'


@dataclass
class Guard:
    """A guard model with its tokenizer and format."""

    path: Path
    format: Format
    model: Mistral
    tokenizer: FastTokenizer
    ids_of: dict[str, list[list[int]]] = field(init=False)  # token ids of each question's verdicts

    def __post_init__(self) -> None:
        self.ids_of = {q.name: self._verdict_ids(q) for q in self.format.questions}

    def encode(self, pair: Pair, written: str = "") -> list[int]:
        """The token ids of what the guard reads, and of what it has written so far."""
        prompt, answer = map(self.neutralise, pair)
        text = self.format.write(prompt, answer) + written
        return self.tokenizer(text, add_special_tokens=self.format.adds_special_tokens)["input_ids"]

    def neutralise(self, text: str) -> str:
        """A text in which no control token is spelled: each has a space after its first letter."""
        for token in self.tokenizer.added_tokens_decoder.values():
            spelled = str(token)
            if len(spelled.strip()) > 1 and spelled in text:
                text = text.replace(spelled, f"{spelled[0]} {spelled[1:]}")
        return text

    def score(self, ids: Sequence[list[int]], question: Question) -> Scored:
        """The verdicts' probabilities as the next token after some token ids."""
        ids, verdict_ids = [list(row) for row in ids], self.ids_of[question.name]
        p_NV = np.zeros((len(ids), len(verdict_ids)))
        is_readable_N, open_rows = np.zeros(len(ids), bool), list(range(len(ids)))
        for _ in range(_MAX_BLANKS + 1):
            blank_rows = []
            for batch in make_batches([ids[n] for n in open_rows], _BATCH_SIZE):
                logits_BV = self._next_logits(batch.tokens_BS, batch.lengths_B)
                for row, index in enumerate(batch.indices):
                    n, logits_V = open_rows[index], logits_BV[row]
                    p_NV[n] = _restricted(logits_V, verdict_ids)
                    best = int(logits_V.argmax())
                    is_readable_N[n] = any(best in some for some in verdict_ids)
                    if not is_readable_N[n] and self._is_blank(best):
                        ids[n].append(best)
                        blank_rows.append(n)
            open_rows = blank_rows
            if not open_rows:
                break
        return Scored(p_NV, is_readable_N)

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts on pairs of prompt and answer; a pair that does not fit has none."""
        limit = self.model.config.max_position_embeddings - 32  # room for what the guard writes
        fits = [len(self.encode(pair)) <= limit for pair in pairs]
        rows = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
        written, told = [""] * len(rows), [dict[str, str]() for _ in rows]
        p_of: list[dict[str, float]] = [{} for _ in rows]
        is_readable_N = np.ones(len(rows), bool)
        for question in self.format.questions if rows else ():
            written = [text + question.lead for text in written]
            ids = [self.encode(pair, text) for pair, text in zip(rows, written, strict=True)]
            scored, names = self.score(ids, question), list(question.words)
            is_readable_N &= scored.is_readable_N
            for n, p_V in enumerate(scored.p_NV):
                verdict = names[int(p_V.argmax())]
                told[n][question.name], p_of[n][question.name] = verdict, float(p_V.max())
                written[n] += question.words[verdict][0]
        judged = iter(zip(told, p_of, is_readable_N, strict=True))
        return [self._verdict(*next(judged)) if fit else _failed(TOO_LONG) for fit in fits]

    def check_kind(self) -> None:
        """Raise InputError if the model gives no verdict on a plain example."""
        if self.judge([_PROBE])[0].failed:
            raise InputError(
                f"{self.path} gives no verdict where {self.format.title} writes one of "
                f"{_spelled(self.format.questions)}: it is another kind of model"
            )

    def _verdict(self, told: dict[str, str], p_of: dict[str, float], readable: bool) -> Verdict:
        if not readable:
            return _failed(UNREADABLE)
        word, scored = self.format.shown(told)
        return Verdict(self.format.outcome(told), word, p_of[scored])

    def _next_logits(self, tokens_BS, lengths_B) -> Float[np.ndarray, "B V"]:
        depth = self.model.config.num_hidden_layers
        return to_host(exit_logits(self.model, tokens_BS, lengths_B, depth)).astype(np.float64)

    def _is_blank(self, token: int) -> bool:
        piece = self.tokenizer.convert_ids_to_tokens(token)
        text = self.tokenizer.decode([token])
        return not text.strip() and not piece.strip("▁Ġ Ċ\n").removeprefix("<0x0A>")

    def _verdict_ids(self, question: Question) -> list[list[int]]:
        """The ids of the tokens that each verdict begins with, right after its lead."""
        before = self.format.write("", "") + question.lead

        def encode(text: str) -> list[int]:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]

        start, found = encode(before), []
        for spellings in question.words.values():
            ids = [encode(before + word) for word in spellings]
            fitting = [row for row in ids if row[: len(start)] == start and len(row) > len(start)]
            firsts = {
                row[len(start)]
                for row in fitting
                if not question.whole or len(row) == len(start) + 1
            }
            # A space of its own before a word is decoded as white space is.
            firsts -= {token for token in firsts if self._is_blank(token)}
            firsts |= {
                row[len(start) + 1]
                for row in fitting
                if len(row) == len(start) + 2 and self._is_blank(row[len(start)])
            }
            found.append(sorted(firsts))
        flat = [token for ids in found for token in ids]
        if not all(found) or len(set(flat)) < len(flat):
            raise InputError(
                f"the tokenizer of {self.path} cannot tell {_spelled([question])} apart by one "
                f"token, as that of {self.format.title} can: it is another kind of model"
            )
        return found


class GuardJudge(NamedJudge):
    """A guard as a judge."""

    def __init__(self, guard: Guard, identity: str) -> None:
        super().__init__(guard.format.kind, identity)
        self.guard, self.asks_about = guard, guard.format.asks_about
        self._failures = dict.fromkeys((UNREADABLE, TOO_LONG), 0)

    def ask_pairs(self, pairs: Sequence[Pair]) -> list[Verdict]:
        verdicts = self.guard.judge(pairs)
        for reason in self._failures:
            self._failures[reason] += sum(v.failed and v.word == reason for v in verdicts)
        return verdicts

    def warning(self) -> str:
        failures = [f"{count} {reason}" for reason, count in self._failures.items() if count]
        if not failures:
            return ""
        return f"{self.name} gave no verdict to some answers ({', '.join(failures)}): undetermined"


def open_guard(path: Path, format_for) -> GuardJudge:
    """Load a converted checkpoint as a guard, and check that it is one.

    Args:
        path: a checkpoint made by `jaxdepth convert`.
        format_for: from the path, the `config.json` and the tokenizer to the `Format`.

    Raises:
        InputError: there is no checkpoint at `path`, it is damaged, has no tokenizer, or is
            another kind of model.
    """
    manifest = read_manifest(path)
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        raise InputError(f"{path} was converted without a tokenizer: a judge needs one")
    config, raw = read_config(path / "config.json")
    tokenizer = without_spare_tokens(tokenizer, config.vocab_size, str(path))
    form = format_for(path, raw, tokenizer)
    model, _ = load(path)
    guard = Guard(path, form, model, tokenizer)
    guard.check_kind()
    parts = [form.version, form.write("{prompt}", "{answer}"), manifest["fingerprint"]]
    parts += [f"{name} {digest}" for name, digest in sorted(manifest["files"].items())]
    return GuardJudge(guard, hashlib.sha256(json.dumps(parts).encode()).hexdigest())


def _restricted(logits_V: np.ndarray, verdict_ids: list[list[int]]) -> np.ndarray:
    """Softmax over the verdicts alone, each with the mass of all its tokens."""
    top = logits_V.max()
    mass_V = np.array([np.exp(logits_V[ids] - top).sum() for ids in verdict_ids])
    if not mass_V.sum():  # all too improbable for a float: compare the best token of each
        best_V = np.array([logits_V[ids].max() for ids in verdict_ids])
        mass_V = np.exp(best_V - best_V.max())
    return mass_V / mass_V.sum()


def _failed(reason: str) -> Verdict:
    return Verdict(str(Outcome.UNDETERMINED), reason, None, failed=True)


def _spelled(questions: Sequence[Question]) -> str:
    return ", ".join(dict.fromkeys(repr(word) for q in questions for word in q.words))
