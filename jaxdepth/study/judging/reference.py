"""The built-in rule for the answers of a finished run: its reference model, and its identity."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest
from jaxdepth.refusal.reference import Reference
from jaxdepth.study.loading import load_model
from jaxdepth.study.settings import AdaptedModel, Devices
from jaxdepth.weights.adapter import adapter_digest
from jaxdepth.weights.checkpoint import read_manifest


def builtin_identity(record: Mapping, reference: Path | None) -> str:
    """A digest of the built-in rule, and of the model under which it judges coherence."""
    package = Path(str(files("jaxdepth")))
    rule = [*(package / "refusal").glob("*.py"), *(package / "data").glob("*.json")]
    parts = [f"{file.name} {file_digest(file)}" for file in sorted(rule)]
    parts += reference_of(record, reference)[1]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def reference_of(record: Mapping, reference: Path | None) -> tuple[AdaptedModel, list[str]]:
    """The model that judges coherence for a run, and its digests.

    Args:
        record: of the run.
        reference: a checkpoint in place of the run's own.

    Raises:
        InputError: the run's own is not where it was, or is another model by now.
    """
    settings, facts = record["settings"], record["facts"]
    dtype = settings.get("dtype")
    if reference is None and settings.get("reference_fingerprint") is not None:
        path = Path(facts.get("reference") or "")
        _check(path, settings["reference_fingerprint"], "its reference model")
        reference = path
    if reference is not None:
        fingerprint = read_manifest(reference)["fingerprint"]
        return AdaptedModel(reference, dtype=dtype), [fingerprint]
    path, adapter = Path(facts.get("model", "")), facts.get("adapter")
    _check(path, settings.get("model_fingerprint"), "its model")
    digests = [settings["model_fingerprint"], str(settings.get("adapter_sha256"))]
    if adapter is not None and adapter_digest(adapter) != settings.get("adapter_sha256"):
        raise InputError(f"the adapter {adapter} of the run has changed since: name --reference")
    model = AdaptedModel(path, dtype=dtype, int8=settings.get("int8", False), adapter=adapter)
    return model, digests


def load_reference_of(record: Mapping, reference: Path | None) -> Reference:
    """Load that model; raises InputError as `reference_of`."""
    loaded = load_model(reference_of(record, reference)[0], Devices())
    return Reference(loaded.model, loaded.encoder)


def _check(path: Path, fingerprint: str | None, what: str) -> None:
    try:
        found = read_manifest(path)["fingerprint"]
    except InputError as error:
        raise InputError(
            f"the run needs {what} to judge coherence ({error}), or --reference"
        ) from None
    if found != fingerprint:
        raise InputError(f"{path} is not {what} that the run had: name that one with --reference")
