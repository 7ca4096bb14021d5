"""Loading a model for a study: weights, tokenizer, and what identifies it."""

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.model.config import read_config
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh, describe
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.prompts.identity import tokenizer_digest
from jaxdepth.runtime.distributed import all_gather
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.study.atomic_files import on_first
from jaxdepth.study.run_directory import (
    REFERENCE,
    RUN_FILE,
    check_file,
    read_record,
)
from jaxdepth.study.settings import AdaptedModel, Devices
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import adapter_digest, find_adapter
from jaxdepth.weights.huggingface.adapter_tokenizer import load_adapted_tokenizer
from jaxdepth.weights.load import load


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer."""

    model: Mistral
    tokenizer: FastTokenizer
    encoder: PromptEncoder
    end_tokens: tuple[int, ...]  # token ids that end a reply
    fingerprint: str  # of the checkpoint
    adapter_sha256: str | None

    @cached_property
    def conversations(self) -> ConversationEncoder:
        """What turns whole conversations into token ids."""
        return ConversationEncoder(self.tokenizer, self.encoder)

    @property
    def identity(self) -> str:
        """The checkpoint's fingerprint, with the adapter's digest where there is one."""
        return self.fingerprint + (self.adapter_sha256 or "")

    @property
    def resolved(self) -> dict:
        """The settings that stand for it: a run is resumed only with an equal model and prompts.

        The date is among them if a conversation that was written so far prints it.
        """
        settings = {
            "model_fingerprint": self.fingerprint,
            "end_tokens": list(self.end_tokens),
            **prompt_settings(self.tokenizer, self.encoder),
        }
        if self.conversations.date is not None:
            settings["date"] = self.conversations.date
        if self.adapter_sha256 is not None:
            settings["adapter_sha256"] = self.adapter_sha256
        return settings


def prompt_settings(tokenizer: FastTokenizer, encoder: PromptEncoder) -> dict:
    """The settings that stand for how a run's prompts are written and its texts are read.

    They are the same for every command, so that a run notices a checkpoint, or an adapter, whose
    tokenizer or chat template has changed while the weights have not.

    Args:
        tokenizer: with an adapter's changes, if there is one.
        encoder: of that tokenizer, told the run's date.
    """
    settings = {
        "tokenizer_sha256": tokenizer_digest(tokenizer),
        "template_sha256": encoder.template_digest,
    }
    return settings if encoder.date is None else settings | {"date": encoder.date}


def run_date(chosen: str | None, out: Path) -> str:
    """The day that a run's chat templates are told, as YYYY-MM-DD; the same on all processes.

    Args:
        chosen: by the settings, or None.
        out: the run directory; a run that is resumed keeps the date that it began with.

    Raises:
        InputError: it is no date, or the run's record is damaged.
    """

    def choose() -> int:
        recorded = read_record(out)["settings"].get("date") if (out / RUN_FILE).is_file() else None
        try:
            return date.fromisoformat(chosen or recorded or date.today().isoformat()).toordinal()
        except (TypeError, ValueError):
            raise InputError(
                f"the date is {chosen or recorded!r}, expected one such as 2026-01-31"
            ) from None

    return date.fromordinal(int(all_gather(np.int32(on_first(choose) or 0))[0])).isoformat()


def load_model(settings: AdaptedModel, devices: Devices, date: str | None = None) -> LoadedModel:
    """Load the checkpoint, with its adapter merged in.

    Args:
        settings: which checkpoint and adapter.
        devices: that share the model.
        date: for chat templates that print one; by default today.

    Raises:
        InputError: the checkpoint or the adapter is missing, damaged or of another model, or the
            checkpoint has no tokenizer.
    """
    fingerprint = checkpoint.read_manifest(settings.model)["fingerprint"]
    if settings.adapter is not None:
        check_file(find_adapter(settings.adapter))
    use_compilation_cache()
    mesh = chosen_mesh(devices.mesh)
    model, tokenizer = load(settings.model, settings.dtype, mesh, settings.adapter, settings.int8)
    if tokenizer is None:
        raise InputError(f"{settings.model} was converted without a tokenizer: prompts need one")
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        encoder=PromptEncoder(tokenizer, date=date),
        end_tokens=checkpoint.end_tokens(settings.model, tokenizer),
        fingerprint=fingerprint,
        adapter_sha256=None if settings.adapter is None else adapter_digest(settings.adapter),
    )


def load_reference(
    path: Path, like: Mistral, dtype: str | None, date: str
) -> tuple[Mistral, PromptEncoder]:
    """Load the checkpoint that judges coherence, onto the devices of another model.

    Args:
        path: the checkpoint.
        like: a model whose devices it shares.
        dtype: of its weights.
        date: for a chat template that prints one.

    Raises:
        InputError: the checkpoint is missing or damaged, or has no tokenizer.
    """
    reference, tokenizer = load(Path(path), dtype, like.mesh)
    if tokenizer is None:
        raise InputError(f"{path} was converted without a tokenizer: name another")
    return reference, PromptEncoder(tokenizer, date=date)


def reference_settings(path: Path, date: str) -> dict:
    """The settings that stand for a checkpoint that judges coherence.

    Arguments and errors are those of `load_reference`, but it may lack a tokenizer. The run's date
    is among the settings only if the checkpoint's prompts depend on it.
    """
    settings = {"fingerprint": checkpoint.read_manifest(path)["fingerprint"]}
    vocab_size = read_config(path / "config.json")[0].vocab_size
    tokenizer = load_adapted_tokenizer(path, None, vocab_size)
    if tokenizer is not None:
        settings |= prompt_settings(tokenizer, PromptEncoder(tokenizer, date=date))
    dated = {"date": settings.pop("date")} if "date" in settings else {}
    return {f"{REFERENCE}{name}": value for name, value in settings.items()} | dated


def device_provenance(model: Mistral) -> dict:
    """The device and mesh that a run was made on, for run.json."""
    return {
        "device": jax.devices()[0].device_kind,
        "mesh": describe(model.mesh),
        "processes": jax.process_count(),
    }
