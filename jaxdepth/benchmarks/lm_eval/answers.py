"""Answers of several exits to lm-eval's requests: those of all exits are computed at once."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from jaxdepth.benchmarks.lm_eval.tables import LOGLIKELIHOODS, TEXTS
from jaxdepth.depth.continuation import score_batch, scoring_batches
from jaxdepth.depth.generation import DEFAULT_BUDGET, generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.study.answers import lane_seed
from jaxdepth.study.batched import HasIndices, OnHost
from jaxdepth.study.tables import Table


class Keep(Protocol):
    """Makes a table batch by batch, or has it from an earlier attempt."""

    def __call__(
        self, table: Table, digest: str, batches: Sequence[Any], rows: Callable[[Any], OnHost]
    ) -> pa.Table:
        """The whole table.

        Args:
            table: its declaration.
            digest: of the requests that it answers.
            batches: each is one chunk of the table.
            rows: runs a batch; the function that it returns makes the chunk.
        """


def keep_in_memory(
    table: Table, digest: str, batches: Sequence[HasIndices], rows: Callable[[Any], OnHost]
) -> pa.Table:
    """Make a table for this process alone."""
    return pa.concat_tables([table.empty(), *(rows(batch)()[0] for batch in batches)])


class Scored(NamedTuple):
    """Log-probabilities of continuations at the exits."""

    logprob_NE: Float[np.ndarray, "N E"]
    is_greedy_NE: Bool[np.ndarray, "N E"]


@dataclass(frozen=True)
class Wanted:
    """A text to generate."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[str, ...]
    sampling: Sampling


class _GenerationBatch(NamedTuple):
    """Texts with one length, sampling and stop strings, of prompts of similar length."""

    indices: tuple[int, ...]
    batch: Batch
    like: Wanted


@dataclass
class ExitAnswers:
    """A model that answers requests at several exits; remembers what it was asked last."""

    model: Mistral
    tokenizer: FastTokenizer
    end_tokens: Sequence[int]
    exits: Sequence[int]
    batch_size: int = 16
    memory_budget: int = DEFAULT_BUDGET
    seed: int = 0
    keep: Keep = keep_in_memory
    _last: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def score(
        self, pairs: Sequence[tuple[list[int], list[int]]], table: Table = LOGLIKELIHOODS
    ) -> Scored:
        """Score continuations, each after its context, at every exit.

        Args:
            pairs: token ids of each context and its continuation, neither of them empty.
            table: where they are kept: loglikelihoods, or windows of texts.

        Raises:
            InputError: a logit was NaN or infinite.
        """
        return self._answer(table, pairs, lambda digest: self._score(pairs, table, digest))

    def generate(self, wanted: Sequence[Wanted]) -> list[list[str]]:
        """The texts of every exit, (N, E)."""
        requests = [(w.prompt, w.max_new_tokens, w.stops, vars(w.sampling)) for w in wanted]
        return self._answer(TEXTS, requests, lambda digest: self._generate(wanted, digest))

    def _answer(self, table: Table, requests: Sequence, answer: Callable[[str], Any]) -> Any:
        """What was answered to the same requests, or a new answer in its place."""
        digest = hashlib.sha256(json.dumps(requests).encode()).hexdigest()
        if self._last.get(table.name, ("",))[0] != digest:
            self._last[table.name] = digest, answer(digest)
        return self._last[table.name][1]

    def _score(self, pairs: Sequence, table: Table, digest: str) -> Scored:
        distinct = list(dict.fromkeys((tuple(context), tuple(tokens)) for context, tokens in pairs))
        contexts = list(dict.fromkeys(context for context, _ in distinct))
        number = {context: z for z, context in enumerate(contexts)}
        batches = scoring_batches(
            self.model,
            contexts,
            [tokens for _, tokens in distinct],
            [number[context] for context, _ in distinct],
            self.batch_size,
        )

        def rows(batch) -> OnHost:
            scores = score_batch(self.model, batch, self.exits)
            columns = {
                "request": np.repeat(batch.indices, len(self.exits)),
                "exit": np.tile(self.exits, len(batch.indices)),
                "logprob": np.concatenate(
                    [score.logprob_ET.sum(axis=1, dtype=np.float64) for score in scores]
                ),
                "is_greedy": np.concatenate([score.is_top_ET.all(axis=1) for score in scores]),
            }
            return lambda: [table.from_columns(columns)]

        kept = self.keep(table, digest, batches, rows)
        logprob, is_greedy = (
            self._by_request(kept, name, len(distinct)) for name in ("logprob", "is_greedy")
        )
        self._check_finite(logprob)
        place = {pair: n for n, pair in enumerate(distinct)}
        asked = [place[tuple(context), tuple(tokens)] for context, tokens in pairs]
        return Scored(logprob[asked].astype(np.float64), is_greedy[asked].astype(bool))

    def _generate(self, wanted: Sequence[Wanted], digest: str) -> list[list[str]]:
        alike: dict[tuple, list[int]] = {}
        for n, one in enumerate(wanted):
            alike.setdefault((one.max_new_tokens, one.stops, one.sampling), []).append(n)
        batches = []
        for indices in alike.values():
            prompts = [wanted[n].prompt for n in indices]
            for batch in make_batches(prompts, self.batch_size, self.model.mesh):
                of_all = tuple(indices[n] for n in batch.indices)
                batches.append(_GenerationBatch(of_all, batch, wanted[of_all[0]]))
        kept = self.keep(TEXTS, digest, batches, self._texts)
        return self._by_request(kept, "text", len(wanted)).tolist()

    def _texts(self, part: _GenerationBatch) -> OnHost:
        rows = part.batch.padded_indices
        first = dict(zip(part.batch.indices, part.indices, strict=True))
        generation = generate(
            self.model,
            part.batch.tokens_BS,
            part.batch.lengths_B,
            list(self.exits),
            part.like.max_new_tokens,
            sampling=part.like.sampling,
            seeds_B=[lane_seed(self.seed, str(first[n])) for n in rows],
            stop_tokens=self.end_tokens,
            has_ended=lambda ids: any(stop in self._text(ids) for stop in part.like.stops),
            memory_budget=self.memory_budget,
        )
        chosen = []
        for b, request in enumerate(part.indices):
            for e, exit_layer in enumerate(self.exits):
                if not generation.finite[b, e]:
                    raise _not_finite([exit_layer])
                ids = generation.tokens[b, e, : generation.lengths[b, e]].tolist()
                text = self._text(ids)
                for stop in part.like.stops:
                    text = text.split(stop)[0]
                chosen.append({"request": request, "exit": exit_layer, "text": text})
        return lambda: [TEXTS.from_rows(chosen)]

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _by_request(self, kept: pa.Table, column: str, count: int) -> np.ndarray:
        """A column of a table as an array (requests, exits)."""
        place = {exit_layer: e for e, exit_layer in enumerate(self.exits)}
        array = np.empty((count, len(self.exits)), object)
        exits = [place[exit_layer] for exit_layer in kept["exit"].to_pylist()]
        array[kept["request"].to_numpy(), exits] = kept[column].to_pylist()
        return array

    def _check_finite(self, logprob_NE: np.ndarray) -> None:
        is_wrong_E = ~np.isfinite(logprob_NE.astype(np.float64)).all(axis=0)
        if is_wrong_E.any():
            raise _not_finite(np.asarray(self.exits)[is_wrong_E].tolist())


def _not_finite(exits: list[int]) -> InputError:
    return InputError(
        f"NaN or infinity in the activations at exit {', '.join(map(str, exits[:5]))}: run with "
        "--dtype float32, leave these exits out, or check the checkpoint"
    )
