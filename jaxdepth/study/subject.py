"""What a study is about: a model, the exits it is cut at, and the prompts it is asked."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import jax
import pyarrow as pa

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh, describe
from jaxdepth.model.steer import steer
from jaxdepth.probe.direction import directions_digest, find_direction, read_directions
from jaxdepth.prompts.batches import limit_prompts
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import Prompt, prompts_digest, read_prompts
from jaxdepth.runtime.distributed import agree
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.study.run_directory import Run, check_file
from jaxdepth.study.settings import Asking
from jaxdepth.weights import checkpoint
from jaxdepth.weights.adapter import adapter_digest, find_adapter
from jaxdepth.weights.load import load

PROMPTS = "prompts"
_PROMPT_SCHEMA = pa.schema([(field.name, pa.string()) for field in fields(Prompt)])
# Where a run is, on what, and what it reads from, which fingerprints and digests tell instead.
_PLACES = ("model", "out", "adapter", "reference", "directions", "classifier", "mesh", "profile")
_STEERING = ("directions", "direction", "steer_layers", "steer_scale")


class Asks(Protocol):
    """The settings that name a subject."""

    model: Path
    prompts: tuple[str, ...]
    exits: str
    limit: int | None
    dtype: str | None
    int8: bool
    mesh: str | None
    reference: Path | None
    adapter: str | None
    steer: str
    directions: Path | None
    direction: str | None
    steer_layers: str
    steer_scale: float


@dataclass(frozen=True)
class Subject:
    """A loaded model with what is asked of it."""

    model: Mistral
    unsteered: Mistral  # the same, where nothing is steered
    tokenizer: object  # a transformers fast tokenizer
    encoder: PromptEncoder
    exits: list[int]
    prompts: list[Prompt]
    end_tokens: tuple[int, ...]
    fingerprint: str
    identity: str  # the fingerprint, and the digest of the adapter where there is one

    @classmethod
    def open(cls, settings: Asks) -> "Subject":
        """Reads prompts, loads the model and steers it.

        Raises:
            InputError: something in the settings, the prompts, the checkpoint or the directions is
                wrong; on all processes if it is on one.
        """
        try:
            subject, error = cls._open(settings), None
        except InputError as found:
            subject, error = None, found
        agree(error)
        return subject

    @classmethod
    def _open(cls, settings: Asks) -> "Subject":
        _check_steering(settings)
        prompts = limit_prompts(read_prompts(settings.prompts), settings.limit)
        base = checkpoint.read_manifest(settings.model)["fingerprint"]
        _check_made(settings)
        use_compilation_cache()
        mesh = chosen_mesh(settings.mesh)
        model, tokenizer = load(
            settings.model, settings.dtype, mesh, settings.adapter, settings.int8
        )
        if tokenizer is None:
            raise InputError(
                f"{settings.model} was converted without a tokenizer: prompts need one"
            )
        return cls(
            model=_steered(model, settings, base),
            unsteered=model,
            tokenizer=tokenizer,
            encoder=PromptEncoder(tokenizer),
            exits=parse_exits(settings.exits, model.config.num_hidden_layers),
            prompts=prompts,
            end_tokens=checkpoint.end_tokens(settings.model, tokenizer),
            fingerprint=base,
            identity=base + ("" if settings.adapter is None else adapter_digest(settings.adapter)),
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
        if settings.directions is not None:
            found["directions_sha256"] = directions_digest(settings.directions)
        return found

    def facts(self, settings: Asks) -> dict:
        """What is worth knowing besides."""
        given = settings.directions
        return {
            "model": str(settings.model),
            "adapter": settings.adapter,
            "directions": None if given is None else str(given),
            "directions_adapter_sha256": None if given is None else read_directions(given).adapter,
            "depth": self.model.config.num_hidden_layers,
            "chat_template": self.encoder.has_template,
            "device": jax.devices()[0].device_kind,
            "mesh": describe(self.model.mesh),
            "processes": jax.process_count(),
        }

    def reference(self, settings: Asks) -> tuple[Mistral, PromptEncoder]:
        """What judges coherence: the model itself, or the checkpoint that the settings name."""
        if settings.reference is None:
            # A steered model may find its own gibberish probable: what it is without steering
            # judges, the same for every steering of it.
            return self.unsteered, self.encoder
        reference, own = load(Path(settings.reference), settings.dtype, self.model.mesh)
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


def _steered(model: Mistral, settings: Asks, base: str) -> Mistral:
    """The model with the steering that the settings ask for; itself where they ask for none."""
    if settings.steer == "none":
        return model
    layers = parse_exits(settings.steer_layers, model.config.num_hidden_layers, "layer")
    direction_D = find_direction(settings.directions, settings.direction, base)
    return steer(model, direction_D, layers, settings.steer, settings.steer_scale)


def _check_made(settings: Asks) -> None:
    """Holds what other runs have made for this one against their digests."""
    if settings.adapter is not None:
        check_file(find_adapter(settings.adapter))
    if settings.directions is not None:
        check_file(settings.directions)


def _check_steering(settings: Asks) -> None:
    """Raises InputError for settings of steering without --steer, or the reverse."""
    given = [f for f in fields(Asking) if f.name in _STEERING]
    given = [f.name for f in given if getattr(settings, f.name) != f.default]
    if settings.steer == "none" and given:
        raise InputError(f"{given[0]} is set, but nothing is steered: add --steer ablate or add")
    lacking = [name for name in ("directions", "direction") if name not in given]
    if settings.steer != "none" and lacking:
        raise InputError(f"--steer {settings.steer} needs --{lacking[0]}")
