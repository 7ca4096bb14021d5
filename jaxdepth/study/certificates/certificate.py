"""The file of a certificate: JSON with a digest of itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.prompts.datasets import HARMFUL, HARMLESS
from jaxdepth.records import as_type
from jaxdepth.study.atomic_files import atomic_write
from jaxdepth.study.certificates.measured import RISKS

FORMAT = "jaxdepth-certificate-1"
FILE = "certificate.json"


class Rule(TypedDict):
    """An exit or a rule of a policy."""

    rule: str
    family: str
    threshold: float
    exit: int | None


class RiskTest(TypedDict):
    """Losses of one risk on calibration prompts."""

    n: int
    losses: float
    rate: float
    p: float


class TestedRule(Rule):
    """A rule with its p-values and losses on calibration prompts."""

    passed: bool
    p: float
    layers: float
    risks: dict[str, RiskTest]


class FailedRule(Rule):
    """The first rule of a sequence that failed, and what would certify it."""

    prompts: dict[str, int | None]  # by risk


class Rate(TypedDict):
    """A rate on test prompts with its interval."""

    value: float
    low: float
    high: float
    n: int


class TestRates(TypedDict):
    """The certified rule on test prompts."""

    rates: dict[str, Rate]  # by risk
    layers: dict[str, float]  # by label


class Prompts(TypedDict):
    """The prompts of one part."""

    harmful: int
    harmless: int
    ids: list[str]


class Model(TypedDict):
    """How the run named model and adapter, and the number of layers."""

    model: str | None
    adapter: str | None
    depth: int


class RunDigests(TypedDict):
    """A run that was read, and the digests of its tables."""

    path: str
    prompts_sha256: str
    tables: dict[str, str]


class Content(TypedDict):
    """What the file of a certificate holds."""

    system: dict  # settings of the run that the certificate holds for
    model: Model
    tolerances: dict[str, float]  # by risk
    confidence: float
    certified: Rule | None  # the rule that may be deployed, or null
    reason: str | None  # why there is none
    rules: list[TestedRule]
    next: list[FailedRule]
    test: TestRates | None
    prompts: dict[str, Prompts]  # `calibration` and `test`
    runs: list[RunDigests]
    split: dict  # seed and share
    versions: dict


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
        certificate = cls.read_any(path)
        if certificate.rule is None:
            raise InputError(f"{path} certifies nothing: {certificate.content['reason']}")
        return certificate

    @classmethod
    def read_any(cls, path: Path) -> "Certificate":
        """Read a certificate, also one that certifies nothing.

        Raises:
            InputError: there is no such file, or it is damaged or edited.
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
        return cls(content)


def _is_well_formed(content: dict) -> bool:
    """Whether a content has the declared types, and speaks of the same risks and rules throughout.

    Its digest shows a careless edit only: who makes it anew can write anything.
    """
    try:
        c = as_type(content, Content, "the certificate")
    except InputError:
        return False
    certified, test, system = c["certified"], c["test"], c["system"]
    names, risks = {rule["rule"] for rule in c["rules"]}, {*RISKS}
    if certified is None:
        is_whole = c["reason"] is not None and test is None
    else:
        is_whole = (
            certified["rule"] in names
            and test is not None
            and {*test["rates"]} == risks
            and {*test["layers"]} == {HARMFUL, HARMLESS}
        )
    return (
        is_whole
        and {*c["tolerances"]} == risks
        and all(0 < t < 1 for t in (*c["tolerances"].values(), c["confidence"]))
        and all({*rule["risks"]} == risks for rule in c["rules"])
        and all(f["rule"] in names and {*f["prompts"]} <= risks for f in c["next"])
        and {*c["prompts"]} == {"calibration", "test"}
        and c["model"]["depth"] > 0
        and all(isinstance(system.get(name), str) for name in ("model_fingerprint", "dtype"))
    )


def _digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
