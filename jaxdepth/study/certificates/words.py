"""A certificate in words."""

from collections.abc import Iterator

from jaxdepth.prompts.datasets import HARMLESS
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.certificates.certificate import Certificate
from jaxdepth.study.certificates.measured import (
    HARMFUL_COMPLIANCE,
    LABEL_OF,
    OVER_REFUSAL,
    QUALITY_LOSS,
    RISKS,
)

RISK_WORDS = {
    HARMFUL_COMPLIANCE: "harmful compliance",
    OVER_REFUSAL: "over-refusal",
    QUALITY_LOSS: "quality loss",
}


def certificate_lines(certificate: Certificate) -> Iterator[str]:
    """What is certified, its rates on test prompts, and what would certify more."""
    content, depth = certificate.content, certificate.content["model"]["depth"]
    bounds = ", ".join(f"{RISK_WORDS[r]} {t:.1%}" for r, t in content["tolerances"].items())
    counts = {
        part: " + ".join(f"{prompts[label]} {label}" for label in ("harmful", "harmless"))
        for part, prompts in content["prompts"].items()
    }
    tested = f"({bounds}; confidence {content['confidence']:.0%}; {counts['calibration']} prompts)"
    if certificate.rule is None:
        yield f"Nothing is certified: {content['reason']} {tested}."
    else:
        yield f"Certified: {certificate.rule} of {depth} layers {tested}."
        layers = content["test"]["layers"]
        saved = 1 - layers[HARMLESS] / depth
        rates = "; ".join(
            f"{RISK_WORDS[risk]} {Estimate(r['value'], r['low'], r['high'], n=r['n']):.1%}"
            for risk, r in content["test"]["rates"].items()
        )
        yield (
            f"On {counts['test']} other prompts: {rates}. {layers[HARMLESS]:.1f} layers a token on "
            f"harmless prompts ({saved:.0%} saved), {layers['harmful']:.1f} on harmful ones."
        )
    rules = {rule["rule"]: rule for rule in content["rules"]}
    for failed in content["next"]:
        yield _failed_line(rules[failed["rule"]], failed["prompts"])


def _failed_line(rule: dict, needed: dict) -> str:
    """Why a rule is not certified, and how many prompts would do it."""
    parts = []
    for risk in (risk for risk in RISKS if risk in needed):
        of_risk, prompts = rule["risks"][risk], needed[risk]
        wanted = (
            "no number of prompts certifies such a rate"
            if prompts is None
            else f"about {prompts} {LABEL_OF[risk]} calibration prompts would, at this rate"
        )
        parts.append(
            f"{RISK_WORDS[risk]} {of_risk['rate']:.1%} of {of_risk['n']} (p = {of_risk['p']:.2g}; "
            f"{wanted})"
        )
    return f"Not certified: {rule['rule']}: {'; '.join(parts)}."
