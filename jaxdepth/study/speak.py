"""What every exit says, for every prompt, and what that did: the generations of a sweep."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxdepth.depth.decode import generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.refusal.batches import Batch
from jaxdepth.refusal.chat import PromptEncoder
from jaxdepth.refusal.coherence import reference_logprobs
from jaxdepth.refusal.outcome import Judge, classify_texts
from jaxdepth.refusal.prompts import Prompt
from jaxdepth.settings import Sweep
from jaxdepth.weights import checkpoint

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
    """A model that speaks at some exits, and what judges its answers."""

    settings: Sweep
    model: Mistral
    tokenizer: object  # a transformers fast tokenizer
    exits: tuple[int, ...]
    end_tokens: tuple[int, ...]
    reference: tuple[Mistral, PromptEncoder]
    judge: Judge | None = None

    def rows(self, batch: Batch, prompts: Sequence[Prompt]) -> pa.Table:
        """One row per prompt of the batch, exit and sample."""
        depth, s = self.model.config.num_hidden_layers, self.settings
        # Full depth is always spoken: agreement is held against it.
        spoken = list(dict.fromkeys([*self.exits, depth]))
        real = len(batch.prompts)
        said = generate(
            self.model,
            batch.tokens_BS,
            batch.lengths_B,
            spoken,
            s.max_new_tokens,
            samples=s.samples,
            sampling=Sampling(s.temperature, s.top_k, s.top_p),
            seeds_B=[lane_seed(s.seed, prompts[place].prompt_id) for place in batch.places],
            stop_tokens=self.end_tokens,
            memory_budget=int(s.memory_gb * 2**30),
        )
        rows = []
        for b, e, m in np.ndindex(real, len(self.exits), s.samples):
            tokens = said.tokens[b, e, m, : said.lengths[b, e, m]]
            full = said.tokens[b, spoken.index(depth), m, : said.lengths[b, spoken.index(depth), m]]
            text, ended = self._text(tokens)
            rows.append(
                {
                    "prompt_id": prompts[batch.prompts[b]].prompt_id,
                    "exit": self.exits[e],
                    "sample": m,
                    "text": text,
                    "n_tokens": len(tokens),
                    "ended": ended,
                    "agreement": agreement(tokens, full),
                    "prompt": prompts[batch.prompts[b]].text,
                }
            )
        return self._judged(rows)

    def _text(self, tokens: np.ndarray) -> tuple[str, str]:
        ended = "length"
        if tokens[-1] in self.end_tokens:
            tokens, ended = tokens[:-1], "eos"
        text = self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        cuts = [text.find(stop) for stop in self.settings.stop if stop in text]
        return (text[: min(cuts)], "stop") if cuts else (text, ended)

    def _judged(self, rows: list[dict]) -> pa.Table:
        texts = [row["text"] for row in rows]
        logprobs = reference_logprobs(*self.reference, texts)
        asked = [row.pop("prompt") for row in rows]
        found = classify_texts(texts, asked, logprobs=logprobs, judge=self.judge)
        for row, judged in zip(rows, found, strict=True):
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
            if not self.settings.keep_text:
                row["text"] = None
        return pa.Table.from_pylist(rows, SCHEMA)


def lane_seed(seed: int, prompt_id: str) -> int:
    """A seed for a prompt that depends on nothing else in the run."""
    return zlib.crc32(f"{seed} {prompt_id}".encode()) & 0x7FFFFFFF


def agreement(tokens: Sequence[int], full: Sequence[int]) -> float:
    """Share of positions at which two answers have the same token, of the longer one's."""
    same = sum(a == b for a, b in zip(tokens, full, strict=False))
    return same / max(len(tokens), len(full))


def load_reference(
    settings: Sweep, model: Mistral, encoder: PromptEncoder
) -> tuple[Mistral, PromptEncoder]:
    """What judges coherence: the model itself, or the checkpoint that the settings name."""
    if settings.reference is None:
        return model, encoder
    reference, own = checkpoint.load(Path(settings.reference), dtype=settings.dtype)
    if own is None:
        raise InputError(f"{settings.reference} was converted without a tokenizer: name another")
    return reference, PromptEncoder(own)
