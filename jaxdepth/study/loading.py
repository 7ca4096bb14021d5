"""Loading a model for a study: weights, tokenizer, and what identifies it."""

from dataclasses import dataclass
from pathlib import Path

import jax

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh, describe
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.study.run_directory import check_file
from jaxdepth.study.settings import AdaptedModel, Devices
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import adapter_digest, find_adapter
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

    @property
    def identity(self) -> str:
        """The checkpoint's fingerprint, with the adapter's digest where there is one."""
        return self.fingerprint + (self.adapter_sha256 or "")


def load_model(settings: AdaptedModel, devices: Devices) -> LoadedModel:
    """Load the checkpoint, with its adapter merged in.

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
        encoder=PromptEncoder(tokenizer),
        end_tokens=checkpoint.end_tokens(settings.model, tokenizer),
        fingerprint=fingerprint,
        adapter_sha256=None if settings.adapter is None else adapter_digest(settings.adapter),
    )


def load_reference(path: Path, like: Mistral, dtype: str | None) -> tuple[Mistral, PromptEncoder]:
    """Load the checkpoint that judges coherence, onto the devices of another model.

    Raises:
        InputError: the checkpoint is missing or damaged, or has no tokenizer.
    """
    reference, tokenizer = load(Path(path), dtype, like.mesh)
    if tokenizer is None:
        raise InputError(f"{path} was converted without a tokenizer: name another")
    return reference, PromptEncoder(tokenizer)


def device_provenance(model: Mistral) -> dict:
    """The device and mesh that a run was made on, for run.json."""
    return {
        "device": jax.devices()[0].device_kind,
        "mesh": describe(model.mesh),
        "processes": jax.process_count(),
    }
