"""What the built-in rule reads the answers of a finished run by, and the rule's identity."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jaxdepth.errors import InputError, listed
from jaxdepth.refusal.encoder import Encoder
from jaxdepth.refusal.outcome import rule_identity
from jaxdepth.refusal.reference import Reference
from jaxdepth.study.judging.settings import Rejudge
from jaxdepth.study.loading import load_model, prompt_settings
from jaxdepth.study.run_directory import PROMPT_DIGESTS, REFERENCE, changed_prompts
from jaxdepth.study.settings import AdaptedModel, Devices
from jaxdepth.weights.adapter import adapter_digest
from jaxdepth.weights.checkpoint import read_manifest

T = TypeVar("T")


@dataclass(frozen=True)
class Readers:
    """The model and the sentence encoder that read answers, not loaded yet."""

    model: AdaptedModel
    encoder: Encoder | None
    digests: tuple[str, ...]
    date: str | None  # that the run's chat templates were told
    recorded: Mapping[str, str | None]  # digests of its tokenizer and template, as the run had them

    @property
    def identity(self) -> str:
        """A digest of the built-in rule and of these two."""
        return hashlib.sha256("\n".join([rule_identity(), *self.digests]).encode()).hexdigest()

    def load(self) -> Reference:
        """Load the model; raises InputError where it cannot be, or reads texts otherwise by now."""
        loaded = load_model(self.model, Devices(), self.date)
        own = prompt_settings(loaded.tokenizer, loaded.encoder)
        changed = changed_prompts(self.recorded, own)
        if changed:
            raise InputError(
                f"{self.model.model} has another {listed(changed)} than the run had: restore it, "
                "or name another model with --reference"
            )
        return Reference(loaded.model, loaded.encoder, self.encoder, known={})


def readers_of(record: Mapping, given: Rejudge) -> Readers:
    """What a run's answers were read by, or what is given in its place.

    Args:
        record: of the run.
        given: names a reference or an encoder in place of the run's own.

    Raises:
        InputError: one of the run's own is not where it was, or is another by now.
    """
    model, digests, recorded = _model_of(record, given.reference)
    encoder, path = None, given.encoder
    expected = record["settings"].get("encoder_sha256")
    if path is None and expected is not None:
        path = Path(record["facts"].get("encoder") or "")
        encoder = _found("the run's sentence encoder", "--encoder", path, Encoder.open)
        _check(path, encoder.identity, expected, "the sentence encoder", "--encoder")
    elif path is not None:
        encoder = Encoder.open(path)
    digests = (*digests, "" if encoder is None else encoder.identity)
    return Readers(model, encoder, digests, record["settings"].get("date"), recorded)


def _model_of(
    record: Mapping, given: Path | None
) -> tuple[AdaptedModel, tuple[str, ...], dict[str, str | None]]:
    """The checkpoint that reads answers, its digests, and those that the run recorded of it."""
    settings, facts = record["settings"], record["facts"]
    dtype, expected = settings.get("dtype"), settings.get(f"{REFERENCE}fingerprint")
    if given is not None:
        return AdaptedModel(given, dtype=dtype), _digests(given), {}
    own = expected is None
    prefix = "" if own else REFERENCE
    recorded = {k: settings[prefix + k] for k in PROMPT_DIGESTS if prefix + k in settings}
    path = Path(facts.get("model" if own else "reference") or "")
    expected = settings.get("model_fingerprint") if own else expected
    found = _found(
        "the run's model" if own else "the run's reference model",
        "--reference",
        path,
        lambda path: read_manifest(path)["fingerprint"],
    )
    _check(path, found, expected, "the model", "--reference")
    if not own:
        return AdaptedModel(path, dtype=dtype), _digests(path), recorded
    adapter, sha256 = facts.get("adapter"), settings.get("adapter_sha256")
    if adapter is not None:
        digest = _found("the run's adapter", "--reference", adapter, adapter_digest)
        _check(adapter, digest, sha256, "the adapter", "--reference")
    model = AdaptedModel(path, dtype=dtype, int8=settings.get("int8", False), adapter=adapter)
    return model, (*_digests(path), str(sha256)), recorded


def _digests(path: Path) -> tuple[str, ...]:
    """Those of a checkpoint: its weights, and its files, which say how it reads texts."""
    manifest = read_manifest(path)
    files = sorted(manifest["files"].items())
    return (manifest["fingerprint"], *(f"{name} {digest}" for name, digest in files))


def _found(what: str, option: str, path: Any, find: Callable[[Any], T]) -> T:
    """What `find` finds at a path; its error says which option names another."""
    try:
        return find(path)
    except (InputError, OSError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{path} cannot be read"
        raise InputError(
            f"the built-in rule needs {what} ({reason}): name it with {option}"
        ) from None


def _check(path: object, found: str, expected: str | None, what: str, option: str) -> None:
    if found != expected:
        raise InputError(f"{path} is not {what} that the run had: name another with {option}")
