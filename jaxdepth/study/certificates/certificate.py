"""The file of a certificate: JSON with a digest of itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.study.atomic_files import atomic_write
from jaxdepth.study.certificates.measured import RISKS

FORMAT = "jaxdepth-certificate-1"
FILE = "certificate.json"
_KEYS: dict[str, type | tuple[type, ...]] = {
    "system": dict,  # settings of the run that the certificate holds for
    "model": dict,  # how the run named model and adapter, and the number of layers
    "tolerances": dict,  # by risk
    "confidence": float,
    "certified": (dict, type(None)),  # the rule that may be deployed, or null
    "reason": (str, type(None)),  # why there is none
    "rules": list,  # every rule that was tested: p-values and losses on calibration prompts
    "next": list,  # the first rule of each sequence that failed, and what would certify it
    "test": (dict, type(None)),  # rates of the certified rule on test prompts
    "prompts": dict,  # ids of calibration and test prompts
    "runs": list,  # digests of the tables that were read
    "split": dict,  # seed and share
    "versions": dict,
}


@dataclass(frozen=True)
class Certificate:
    """What was certified, of what, and by which tests."""

    content: Mapping[str, Any]

    @property
    def rule(self) -> str | None:
        """The name of the certified exit or rule; None where nothing is certified."""
        certified = self.content["certified"]
        return None if certified is None else certified["rule"]

    @property
    def exit_layer(self) -> int | None:
        """The certified exit, where it is a static one."""
        certified = self.content["certified"]
        return None if certified is None else certified["exit"]

    @property
    def system(self) -> Mapping[str, Any]:
        return self.content["system"]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        content = {"format": FORMAT, **self.content}
        text = json.dumps(content | {"sha256": _digest(content)}, indent=1, ensure_ascii=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def read(cls, path: Path) -> "Certificate":
        """Read a certificate that certifies something.

        Raises:
            InputError: there is no such file, it is damaged or edited, or it certifies nothing.
        """
        if not path.is_file():
            raise InputError(f"no certificate {path}: `jaxdepth certify RUN` makes one")
        content = read_json(path, "it is damaged; certify again")
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path} is no certificate of jaxdepth (of the format {FORMAT})")
        digest = content.pop("sha256", None)
        if digest != _digest(content) or not _is_well_formed(content):
            raise InputError(f"{path} was edited or is damaged: certify again")
        content.pop("format")
        if content["certified"] is None:
            raise InputError(f"{path} certifies nothing: {content['reason']}")
        return cls(content)


def _is_well_formed(content: Mapping) -> bool:
    if not all(isinstance(content.get(key), kind) for key, kind in _KEYS.items()):
        return False
    certified, model, system = (content[name] for name in ("certified", "model", "system"))
    if certified is None:
        return content["reason"] is not None
    return (
        isinstance(certified.get("rule"), str)
        and isinstance(certified.get("exit"), int | None)
        and set(content["tolerances"]) == set(RISKS)
        and all(isinstance(t, float) and 0 < t < 1 for t in content["tolerances"].values())
        and 0 < content["confidence"] < 1
        and isinstance(model.get("depth"), int)
        and isinstance(model.get("adapter"), str | None)
        and all(isinstance(system.get(name), str) for name in ("model_fingerprint", "dtype"))
    )


def _digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
