"""What every exit says, for every prompt, and what that did: the generations of a sweep."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jaxdepth.depth.generation import generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.coherence import reference_logprobs
from jaxdepth.refusal.outcome import Judge, TextOutcome, classify_texts
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.settings import Sweep

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("exit", pa.int32()),
        ("sample", pa.int32()),
        ("text", pa.string()),  # null where texts are not kept
        ("n_tokens", pa.int32()),
        ("ended", pa.string()),  # eos, stop or length
        ("outcome", pa.string()),
        ("score", pa.float32()),
        ("refusal_score", pa.float32()),
        ("mean_logprob_reference", pa.float32()),
        ("repetition", pa.float32()),
        ("agreement", pa.float32()),  # share of tokens equal to full depth's; no part of outcomes
    ]
)


@dataclass(frozen=True)
class Speaker:
    """A subject that speaks, and what judges its answers."""

    settings: Sweep
    subject: Subject
    reference: tuple[Mistral, PromptEncoder]
    judge: Judge | None = None

    def rows(self, batch: Batch) -> Callable[[], list[pa.Table]]:
        """One row per prompt of the batch, exit and sample."""
        model, exits, prompts = self.subject.model, self.subject.exits, self.subject.prompts
        depth, s = model.config.num_hidden_layers, self.settings
        # Full depth is always spoken: agreement is held against it.
        spoken = list(dict.fromkeys([*exits, depth]))
        real = len(batch.indices)
        said = generate(
            model,
            batch.tokens_BS,
            batch.lengths_B,
            spoken,
            s.max_new_tokens,
            samples=s.samples,
            sampling=Sampling(s.temperature, s.top_k, s.top_p),
            seeds_B=[lane_seed(s.seed, prompts[place].prompt_id) for place in batch.padded_indices],
            stop_tokens=self.subject.end_tokens,
            memory_budget=int(s.memory_gb * 2**30),
        )
        rows = []
        for b, e, m in np.ndindex(real, len(exits), s.samples):
            tokens = said.tokens[b, e, m, : said.lengths[b, e, m]]
            full = said.tokens[b, spoken.index(depth), m, : said.lengths[b, spoken.index(depth), m]]
            text, ended = self.text_of(tokens)
            rows.append(
                {
                    "prompt_id": prompts[batch.indices[b]].prompt_id,
                    "exit": exits[e],
                    "sample": m,
                    "text": text,
                    "n_tokens": len(tokens),
                    "ended": ended,
                    "agreement": agreement(tokens, full),
                    "prompt": prompts[batch.indices[b]].text,
                }
            )
        judged = self.judged(rows)
        return lambda: [pa.Table.from_pylist(judged(), SCHEMA)]

    def text_of(self, tokens: np.ndarray) -> tuple[str, str]:
        """What some tokens say, up to a stop text, and how they ended: eos, stop or length."""
        ended = "length"
        if tokens[-1] in self.subject.end_tokens:
            tokens, ended = tokens[:-1], "eos"
        text = self.subject.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        cuts = [text.find(stop) for stop in self.settings.stop if stop in text]
        return (text[: min(cuts)], "stop") if cuts else (text, ended)

    def judged(self, rows: list[dict]) -> Callable[[], list[dict]]:
        """Rows that hold a text and its prompt, with what the text did instead of the prompt."""
        texts, asked = ([row.pop(key) for row in rows] for key in ("text", "prompt"))
        found = judge_texts(self.reference, texts, asked, self.judge)
        return lambda: self._told(rows, texts, found())

    def _told(self, rows: list[dict], texts: list[str], found: list[TextOutcome]) -> list[dict]:
        for row, text, judged in zip(rows, texts, found, strict=True):
            row |= {
                "outcome": str(judged.outcome),
                "score": judged.score,
                "refusal_score": judged.refusal_score,
                # null, not NaN: nothing was measured on so short a text
                "mean_logprob_reference": None
                if np.isnan(judged.mean_logprob)
                else judged.mean_logprob,
                "repetition": judged.repetition,
            }
            row["text"] = text if self.settings.keep_text else None
        return rows


def judge_texts(
    reference: tuple[Mistral, PromptEncoder],
    texts: Sequence[str],
    prompts: Sequence[str],
    judge: Judge | None = None,
) -> Callable[[], list[TextOutcome]]:
    """What answers did, their coherence judged under a reference model.

    The reference reads them at once; what it found is judged when the result is called.
    """
    logprobs = reference_logprobs(*reference, texts)
    return lambda: classify_texts(texts, prompts, logprobs=logprobs, judge=judge)


def lane_seed(seed: int, prompt_id: str) -> int:
    """A seed for a prompt that depends on nothing else in the run."""
    return zlib.crc32(f"{seed} {prompt_id}".encode()) & 0x7FFFFFFF


def agreement(tokens: Sequence[int], full: Sequence[int]) -> float:
    """Share of positions at which two answers have the same token, of the longer one's."""
    same = sum(a == b for a, b in zip(tokens, full, strict=False))
    return same / max(len(tokens), len(full))
