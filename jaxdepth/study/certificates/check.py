"""Whether a run is of what a certificate certifies, and contradicts it or not."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.stats.risk_control import risk_p_value
from jaxdepth.study.certificates.certificate import Certificate
from jaxdepth.study.certificates.measured import LABEL_OF, RISKS, Losses, Measured
from jaxdepth.study.certificates.settings import Check
from jaxdepth.study.certificates.system import name_difference, system_of
from jaxdepth.study.certificates.words import RISK_WORDS


class Checked(NamedTuple):
    """Whether a run meets a certificate, and why, in one line."""

    meets: bool
    line: str


def check(settings: Check) -> Checked:
    """Compare a run with a certificate, as `jaxdepth check` does.

    If every rate is within its tolerance, a run contradicts the certificate with a probability of
    at most 1 - confidence: each of the risks is tested at an equal part of it.

    Raises:
        InputError: the certificate or the run cannot be read, or the run has so few prompts that
            nothing could contradict.
    """
    certificate = Certificate.read(settings.certificate)
    measured = Measured.read(settings.run)
    content, rule = certificate.content, certificate.rule
    difference = name_difference(certificate.system, system_of(measured.record["settings"]))
    if difference is not None:
        return Checked(False, f"{settings.run} is not what was certified: {difference}")
    names = measured.rules["rule"].tolist()
    if rule not in names:
        return Checked(False, f"{settings.run} is not what was certified: it lacks {rule}")
    measured = measured.keep_rules(sorted({names.index(rule), measured.full}))
    row = measured.rules["rule"].tolist().index(rule)
    level = (1 - content["confidence"]) / len(RISKS)
    tolerances: Mapping[str, float] = content["tolerances"]
    rates, contradicts = [], False
    for risk in RISKS:
        losses, tolerance = measured.losses(risk), tolerances[risk]
        _check_enough(measured, risk, losses, tolerance, level)
        loss_C = losses.loss_CR[:, row]
        is_above = _p_above(loss_C, tolerance) <= level
        contradicts |= is_above
        rates.append(
            f"{RISK_WORDS[risk]} {loss_C.mean():.1%} of {losses.prompts}, "
            f"{'above' if is_above else 'not shown above'} {tolerance:.1%}"
        )
    verdict = "contradicts the certificate" if contradicts else "meets the certificate"
    confidence = f"{content['confidence']:.0%}"
    return Checked(
        not contradicts, f"{rule} {verdict} ({confidence}, {settings.run}): {'; '.join(rates)}"
    )


def _p_above(loss_C: np.ndarray, tolerance: float) -> float:
    """P-value of losses against the null hypothesis of a mean of at most `tolerance`."""
    return risk_p_value(~loss_C if loss_C.dtype == bool else 1 - loss_C, 1 - tolerance)


def _check_enough(
    measured: Measured, risk: str, losses: Losses, tolerance: float, level: float
) -> None:
    """Raise InputError for prompts that could contradict nothing, whatever their answers."""
    n = len(losses.loss_CR)
    worst_C = np.ones(n, losses.loss_CR.dtype)
    if _p_above(worst_C, tolerance) > level:
        raise InputError(
            f"{measured.path} has too few prompts: {n} {LABEL_OF[risk]} ones (pairs) cannot "
            f"contradict a tolerance of {tolerance:.1%} for {risk}"
        )
