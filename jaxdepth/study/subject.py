"""What a study is about: a model, the exits it is cut at, and the prompts it is asked."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import jax
import pyarrow as pa

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.refusal.batches import limit_prompts
from jaxdepth.refusal.chat import PromptEncoder
from jaxdepth.refusal.prompts import Prompt, prompts_digest, read_prompts
from jaxdepth.study.run import Run
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import adapter_digest

PROMPTS = "prompts"
_PROMPT_SCHEMA = pa.schema([(field.name, pa.string()) for field in fields(Prompt)])
# Where a run is and what it reads from: told by fingerprints and digests instead.
_PLACES = ("model", "out", "adapter", "reference")


class Asks(Protocol):
    """The settings that name a subject."""

    model: Path
    prompts: tuple[str, ...]
    exits: str
    limit: int | None
    dtype: str | None
    reference: Path | None
    adapter: str | None


@dataclass(frozen=True)
class Subject:
    """A loaded model with what is asked of it."""

    model: Mistral
    tokenizer: object  # a transformers fast tokenizer
    encoder: PromptEncoder
    exits: list[int]
    prompts: list[Prompt]
    end_tokens: tuple[int, ...]
    fingerprint: str

    @classmethod
    def open(cls, settings: Asks) -> "Subject":
        """Reads prompts and loads the model.

        Raises:
            InputError: something in the settings, the prompts or the checkpoint is wrong.
        """
        prompts = limit_prompts(read_prompts(settings.prompts), settings.limit)
        manifest = checkpoint.read_manifest(settings.model)
        model, tokenizer = checkpoint.load(settings.model, settings.dtype, settings.adapter)
        if tokenizer is None:
            raise InputError(
                f"{settings.model} was converted without a tokenizer: prompts need one"
            )
        return cls(
            model=model,
            tokenizer=tokenizer,
            encoder=PromptEncoder(tokenizer),
            exits=parse_exits(settings.exits, model.config.num_hidden_layers),
            prompts=prompts,
            end_tokens=checkpoint.end_tokens(settings.model, tokenizer),
            fingerprint=manifest["fingerprint"],
        )

    def decided(self, settings: Asks) -> dict:
        """The settings, and what of the subject decides a run's numbers besides."""
        found = {k: v for k, v in asdict(settings).items() if k not in _PLACES} | {
            "model_fingerprint": self.fingerprint,
            "prompts_sha256": prompts_digest(self.prompts),
            "exits": self.exits,
            "dtype": str(self.model.embed[...].dtype),
        }
        if settings.reference is not None:
            said = checkpoint.read_manifest(settings.reference)
            found["reference_fingerprint"] = said["fingerprint"]
        if settings.adapter is not None:
            found["adapter_sha256"] = adapter_digest(settings.adapter)
        return found

    def facts(self, settings: Asks) -> dict:
        """What is worth knowing besides."""
        return {
            "model": str(settings.model),
            "adapter": settings.adapter,
            "depth": self.model.config.num_hidden_layers,
            "chat_template": self.encoder.has_template,
            "device": jax.devices()[0].device_kind,
        }

    def reference(self, settings: Asks) -> tuple[Mistral, PromptEncoder]:
        """What judges coherence: the model itself, or the checkpoint that the settings name."""
        if settings.reference is None:
            return self.model, self.encoder
        reference, own = checkpoint.load(Path(settings.reference), dtype=settings.dtype)
        if own is None:
            raise InputError(
                f"{settings.reference} was converted without a tokenizer: name another"
            )
        return reference, PromptEncoder(own)

    def write_prompts(self, run: Run) -> None:
        """Puts the prompts into a run."""
        if not run.finished(PROMPTS):
            rows = [vars(p) for p in self.prompts]
            run.write_table(PROMPTS, pa.Table.from_pylist(rows, _PROMPT_SCHEMA))
