"""That what is exported is what was certified, and the command that exports it."""

import shlex
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.study.certificates.certificate import Certificate
from jaxdepth.weights.adapter import adapter_digest
from jaxdepth.weights.checkpoint import read_manifest
from jaxdepth.weights.settings import Export


def check_export(certificate: Certificate, settings: Export) -> None:
    """Raise InputError where `jaxdepth export` would write something else than was certified."""
    file, system = settings.certificate, certificate.system
    depth, exit_layer = certificate.content["model"]["depth"], certificate.exit_layer
    if exit_layer is None:
        raise InputError(
            f"{file} certifies {certificate.rule}, which chooses an exit for every prompt or "
            "token: an exported model has one exit"
        )
    if (settings.exit or depth) != exit_layer:
        raise InputError(
            f"{file} certifies exit {exit_layer}, not {settings.exit or depth}: export that with "
            f"--exit {exit_layer}"
        )
    manifest = read_manifest(settings.model)
    fingerprint = manifest["fingerprint"]
    if fingerprint != system["model_fingerprint"]:
        raise InputError(
            f"{file} is of the model {system['model_fingerprint'][:12]}, {settings.model} is "
            f"{fingerprint[:12]}"
        )
    adapter = None if settings.adapter is None else adapter_digest(settings.adapter)
    if adapter != system.get("adapter_sha256"):
        certified = certificate.content["model"].get("adapter")
        raise InputError(
            f"{file} is of the model {_with(certified)}, not {_with(settings.adapter)} (or the "
            "adapter's file is another)"
        )
    if system.get("int8") or system.get("steer", "none") != "none":
        raise InputError(f"{file} is of a model that was quantised or steered as it ran: no export")
    dtype = settings.dtype or manifest["leaves"]["embed"]["dtype"]
    if dtype != system["dtype"]:
        raise InputError(
            f"{file} is of a model in {system['dtype']}, the export would be in {dtype}: add "
            f"--dtype {system['dtype']}"
        )


def export_command(certificate: Certificate, file: Path) -> str | None:
    """The command that exports the certified exit; None where it is no static one."""
    model, exit_layer = certificate.content["model"], certificate.exit_layer
    if exit_layer is None:
        return None
    words = ["jaxdepth", "export", model["model"], f"exported-exit-{exit_layer}"]
    words += ["--exit", str(exit_layer), "--dtype", certificate.system["dtype"]]
    words += ["--adapter", model["adapter"]] if model["adapter"] else []
    return shlex.join([*words, "--certificate", str(file)])


def _with(adapter: str | None) -> str:
    return "without an adapter" if adapter is None else f"with {adapter}"
