"""The subject of a study: a loaded, possibly steered model, its exits, and the prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.conversation import Written
from jaxdepth.prompts.datasets import Prompt, prompts_digest
from jaxdepth.refusal.encoder import Encoder
from jaxdepth.refusal.openers import resolve_openers
from jaxdepth.refusal.reference import Reference
from jaxdepth.refusal.thought import opens_thought
from jaxdepth.runtime.distributed import raise_on_all
from jaxdepth.settings_file import flatten
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.loading import (
    LoadedModel,
    device_provenance,
    load_model,
    load_reference,
    reference_settings,
    run_date,
)
from jaxdepth.study.prompting.sets import read_study_prompts, system_text
from jaxdepth.study.prompting.written import write_prompts
from jaxdepth.study.run_directory import Run
from jaxdepth.study.settings import AdaptedModel, Devices, Output, Prompts, Steering, Texts
from jaxdepth.study.steering import (
    check_steering,
    resolved_steering,
    steer_model,
    steering_provenance,
)
from jaxdepth.weights.adapter import brings_tokenizer

# Paths, devices and memory: fingerprints and digests stand for them, and no number depends on them.
# The rule of windows is in their table, which is made anew from the answers whenever it changes.
_UNRESOLVED: tuple[str, ...] = ("model", "out", "adapter", "reference", "directions", "classifier")
_UNRESOLVED += ("encoder", "mesh", "profile", "competent_from", "unsafe_from", "date")
_UNRESOLVED += ("prompts", "columns", "memory_gb")


class SubjectSettings(Protocol):
    """The groups of settings that name a subject."""

    @property
    def model(self) -> AdaptedModel: ...
    @property
    def prompts(self) -> Prompts: ...
    @property
    def steering(self) -> Steering: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def output(self) -> Output: ...


@dataclass(frozen=True)
class Subject:
    """A model with its exits and prompts."""

    settings: SubjectSettings
    loaded: LoadedModel
    model: Mistral  # steered, where the settings say so
    exits: list[int]
    prompts: list[Prompt]
    written: list[Written]  # the prompts as token ids
    date: str  # that chat templates are told, as YYYY-MM-DD
    room: int = 0  # padding that each prompt has at least, in tokens

    @property
    def tokenizer(self) -> FastTokenizer:
        return self.loaded.tokenizer

    @property
    def encoder(self) -> PromptEncoder:
        return self.loaded.encoder

    @property
    def end_tokens(self) -> tuple[int, ...]:
        return self.loaded.end_tokens

    @cached_property
    def sentences(self) -> Encoder | None:
        """The sentence encoder that the settings name, read once.

        Raises:
            InputError: it cannot be read.
        """
        path = flatten(self.settings).get("encoder")
        return None if path is None else Encoder.open(path)

    def openers(self, words: Sequence[str]) -> dict[str, int]:
        """The token ids that open a refusal; raises InputError as `resolve_openers`."""
        return resolve_openers(self.encoder, words, any(w.prefill for w in self.written))

    def prompt_ids(self) -> list[list[int]]:
        """The token ids of every prompt, in the chat template, up to where the model goes on."""
        return [written.ids for written in self.written]

    def batches(
        self,
        ids: Sequence[Sequence[int]],
        new_tokens: int = 0,
        chosen: Sequence[int] | None = None,
    ) -> list[Batch]:
        """Batches of the prompts.

        Args:
            ids: of all prompts, such as `prompt_ids`.
            new_tokens: that follow each.
            chosen: indices of the prompts that are batched; by default all.

        Raises:
            InputError: a prompt is longer, with new tokens, than the model takes; names it.
        """
        config, size = self.model.config, self.settings.prompts.batch_size
        rows = range(len(ids)) if chosen is None else chosen
        asked = [self.prompts[row] for row in rows]
        check_lengths(config, asked, [ids[row] for row in rows], new_tokens)
        room, longest = self.room, config.max_position_embeddings - new_tokens
        return make_batches(ids, size, self.model.mesh, chosen=chosen, room=room, longest=longest)

    def reference(self, texts: Texts) -> Reference:
        """What reads answers: a checkpoint, by default the subject's own, and a sentence encoder.

        The model is never steered: a steered model may give its own degenerate text a high
        probability, and every steering should have the same judge.

        Raises:
            InputError: the checkpoint or the encoder cannot be read.
        """
        sentences = self.sentences
        if texts.reference is None:
            return Reference(self.loaded.model, self.encoder, sentences)
        dtype = self.settings.model.dtype
        loaded = load_reference(texts.reference, self.model, dtype, self.date)
        return Reference(*loaded, sentences)

    def resolved(self, **resolved) -> dict:
        """The settings that decide a run's numbers, with fingerprints and digests for paths.

        Args:
            resolved: values that a study adds, or resolves otherwise than the settings say.
        """
        settings = {k: v for k, v in flatten(self.settings).items() if k not in _UNRESOLVED}
        settings |= {
            **self.loaded.resolved,
            "prompts_sha256": prompts_digest(self.prompts),
            "system": system_text(self.settings.prompts.system),
            "exits": self.exits,
            "dtype": str(self.model.embed[...].dtype),
        }
        reference = flatten(self.settings).get("reference")
        if reference is not None:
            settings |= reference_settings(reference, self.date)
        if self.sentences is not None:
            settings["encoder_sha256"] = self.sentences.identity
        return settings | resolved_steering(self.settings.steering) | resolved

    def open_run(self, resolved: dict, *, with_prompts: bool = True, **provenance) -> Run:
        """Start the run in the output directory, or resume it, and write its prompts.

        Args:
            resolved: from `resolved`.
            with_prompts: whether the run has a table of the prompts.
            provenance: what else run.json records about the origin of this run.

        Raises:
            InputError: as `Run.open`.
        """
        flat = flatten(self.settings)
        provenance = {
            "model": str(self.settings.model.model),
            "adapter": self.settings.model.adapter,
            "adapter_tokenizer": _brings_tokenizer(self.settings.model.adapter),
            "prompts": list(self.settings.prompts.prompts),
            "columns": list(self.settings.prompts.columns),
            "reference": _as_text(flat.get("reference")),
            "encoder": _as_text(flat.get("encoder")),
            "memory_gb": flat.get("memory_gb"),
            "depth": self.model.config.num_hidden_layers,
            "chat_template": self.encoder.has_template,
            "opens_thought": opens_thought(self.encoder.reply_opening),
            **steering_provenance(self.settings.steering),
            **device_provenance(self.model),
            **provenance,
        }
        run = Run.open(self.settings.output.out, resolved, provenance)
        if with_prompts and not run.finished(PROMPTS.name):
            run.write_table(PROMPTS.name, PROMPTS.from_rows(p.as_row() for p in self.prompts))
        return run


def open_subject(settings: SubjectSettings, exits: str = "all") -> Subject:
    """Read the prompts, load the model and steer it.

    Args:
        settings: of a study.
        exits: the exits that the study runs, as on the command line.

    Raises:
        InputError: something in the settings, the prompts, the checkpoint, the adapter or the
            directions is wrong; on all processes if it is on one.
    """
    date = run_date(settings.prompts.date, settings.output.out)
    subject, error = None, None
    try:
        subject = _open(settings, exits, date)
    except InputError as raised:
        error = raised
    raise_on_all(error)
    assert subject is not None
    return subject


def _open(settings: SubjectSettings, exits: str, date: str) -> Subject:
    check_steering(settings.steering)
    prompts = read_study_prompts(settings.prompts)
    loaded = load_model(settings.model, settings.devices, date)
    return Subject(
        settings=settings,
        loaded=loaded,
        model=steer_model(loaded.model, settings.steering, loaded.fingerprint),
        exits=parse_exits(exits, loaded.model.config.num_hidden_layers),
        prompts=prompts,
        written=write_prompts(loaded.conversations, prompts),
        date=date,
    )


def check_lengths(
    config: ModelConfig,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    new_tokens: int,
) -> None:
    """Check that every prompt and its answer fit into the model.

    Args:
        config: of the model.
        prompts: as many as `ids`, to be named.
        ids: token ids of each prompt.
        new_tokens: maximum number of new tokens.

    Raises:
        InputError: names the longest prompt that does not fit, and says how many do not.
    """
    lengths, limit = [len(tokens) for tokens in ids], config.max_position_embeddings
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[longest] + new_tokens <= limit:
        return
    count = sum(length + new_tokens > limit for length in lengths)
    others = f" ({count} prompts are too long)" if count > 1 else ""
    raise InputError(
        f"prompt {prompts[longest].prompt_id} of {prompts[longest].source} has {lengths[longest]} "
        f"tokens, with {new_tokens} new ones more than the {limit} that this model takes{others}: "
        "shorten it or leave it out"
    )


def _brings_tokenizer(adapter: str | None) -> bool:
    return adapter is not None and brings_tokenizer(adapter)


def _as_text(path: object) -> str | None:
    return None if path is None else str(path)
