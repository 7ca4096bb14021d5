"""Certify an exit or a policy by Learn then Test, and report its rates on other prompts."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pandas as pd

from jaxdepth.depth.exits import parse_exits
from jaxdepth.depth.policies import Policy
from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.prompts.datasets import HARMFUL, HARMLESS
from jaxdepth.ranges import check_ranges
from jaxdepth.refusal.outcome import BUILT_IN, Outcome
from jaxdepth.stats.risk_control import Risk, RuleTests, certify_rules, prompts_to_certify
from jaxdepth.stats.shares import mean_share
from jaxdepth.stats.sufficiency import MIN_CLUSTERS
from jaxdepth.study.certificates.certificate import Certificate
from jaxdepth.study.certificates.measured import (
    EXIT_FAMILY,
    LABEL_OF,
    QUALITY_LOSS,
    RISKS,
    TABLE_OF,
    Losses,
    Measured,
)
from jaxdepth.study.certificates.settings import Certify
from jaxdepth.study.certificates.split import check_apart, split_run
from jaxdepth.study.certificates.system import system_of
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.windows import Answered, Competence, find_competent


def certify(settings: Certify) -> Certificate:
    """Run the tests of `jaxdepth certify`.

    Raises:
        InputError: a tolerance is no share, a run cannot be read, is not finished, or has too few
            prompts to certify anything, or the two runs are not of one model on different prompts.
    """
    tolerances = _tolerances(settings)
    calibration, test = _read(settings)
    sequences = _sequences(calibration)
    error = 1 - settings.tolerances.confidence
    losses = {risk: calibration.losses(risk) for risk in RISKS}
    for risk, of_risk in losses.items():
        _check_enough(calibration, risk, of_risk, tolerances[risk], error / len(sequences))
    _check_test(test)
    tests = certify_rules(
        [Risk(losses[risk].loss_CR, tolerances[risk]) for risk in RISKS], sequences, error
    )
    chosen, reason = _choose(calibration, tests)
    run_settings, facts = calibration.record["settings"], calibration.record["facts"]
    return Certificate(
        {
            "certified": None if chosen is None else _rule_of(calibration, chosen),
            "reason": reason,
            "tolerances": tolerances,
            "confidence": settings.tolerances.confidence,
            "model": {name: facts.get(name) for name in ("model", "adapter", "depth")},
            "system": system_of(run_settings),
            "test": None if chosen is None else _test_rates(test, chosen),
            "next": _next(calibration, tests, sequences, losses, tolerances, error),
            "rules": _tested(calibration, tests, sequences, losses),
            "prompts": {"calibration": _prompts(calibration), "test": _prompts(test)},
            "runs": [_digests(run) for run in (calibration, test)[: len(settings.runs)]],
            "split": {"seed": settings.seed, "calibration": settings.calibration}
            if len(settings.runs) == 1
            else {},
            "versions": {"jaxdepth": version("jaxdepth")},
        }
    )


def _tolerances(settings: Certify) -> dict[str, float]:
    """The tolerance of each risk; raises InputError for what is no share."""
    check_ranges(settings)
    return {risk: float(getattr(settings.tolerances, risk)) for risk in RISKS}


def _read(settings: Certify) -> tuple[Measured, Measured]:
    """Calibration and test prompts under the rules that are tested, and full depth."""
    if len(settings.runs) not in (1, 2):
        raise InputError(f"{len(settings.runs)} runs: expected RUN, or RUN and TEST_RUN")
    first, *others = (Measured.read(path) for path in settings.runs)
    _check_judge(first)
    first = first.keep_rules(_chosen_rules(first, settings))
    if not others:
        return split_run(first, settings.calibration, settings.seed)
    (test,) = others
    check_apart(first, test)
    names = test.rules["rule"].tolist()
    return first, test.keep_rules([names.index(name) for name in first.rules["rule"]])


def _check_judge(measured: Measured) -> None:
    """Raise InputError for a judge that could not be recognised in another run."""
    settings = measured.record["settings"]
    judge = settings.get("judge", BUILT_IN)
    if judge != BUILT_IN and settings.get("judge_identity") is None:
        raise InputError(
            f"{measured.path} was judged by {judge}, which has no identity by which a "
            "certificate could name it: set its attribute `identity`"
        )


def _chosen_rules(measured: Measured, settings: Certify) -> list[int]:
    """The rows of the rules that are tested, and of full depth; the oracle is never one."""
    rules, is_static = measured.rules, (measured.rules["family"] == EXIT_FAMILY).all()
    if is_static:
        if settings.policies:
            raise InputError(f"{measured.path} has static exits: --policies does not apply")
        if settings.exits == "all":
            return list(range(len(rules)))
        depth = measured.record["facts"]["depth"]
        exits = sorted({*parse_exits(settings.exits, depth), depth})
        missing = sorted({*exits} - {*rules["exit"]})
        if missing:
            raise InputError(f"{measured.path} has no answers of exit {missing[0]}")
        return np.flatnonzero(rules["exit"].isin(exits)).tolist()
    if settings.exits != "all":
        raise InputError(f"{measured.path} has exit policies: name some with --policies")
    families = [f for f in rules["family"].unique() if f != Policy.ORACLE]
    chosen = families
    if settings.policies:
        chosen = [f for f in families if {f, f.split()[0]} & {*settings.policies}]
        known = {*families, *(f.split()[0] for f in families)}
        for name in settings.policies:
            if name not in known:
                raise InputError(
                    f"{measured.path} has no policy {name!r}{nearest(name, known)}; there are "
                    f"{listed(sorted(known), 9)}"
                )
    rows = np.flatnonzero(rules["family"].isin(chosen)).tolist()
    return rows if measured.full in rows else [*rows, measured.full]


def _sequences(measured: Measured) -> list[list[int]]:
    """The rules of each family from the most conservative on: those that exit latest first.

    Full depth belongs to the static exits; where they are not tested, it is not either.
    """
    by_family: dict[str, list[int]] = {}
    for row in np.argsort(-measured.rules["threshold"].to_numpy(), kind="stable").tolist():
        by_family.setdefault(measured.rules["family"][row], []).append(row)
    alone = [measured.full]
    return [rows for rows in by_family.values() if rows != alone or len(by_family) == 1]


def _check_enough(
    measured: Measured, risk: str, losses: Losses, tolerance: float, error: float
) -> None:
    """Raise InputError for prompts that could certify nothing, whatever they were answered with."""
    needed = prompts_to_certify(0.0, tolerance, error)
    n = len(losses.loss_CR)
    if needed is None or n < needed:
        raise InputError(
            f"{measured.path} has too few prompts: {n} {LABEL_OF[risk]} ones (pairs) calibrate, "
            f"and a tolerance of {tolerance:.1%} for {risk} at this confidence takes at least "
            f"{needed or 'a million'}, even without any loss: run more prompts, give --calibration "
            "a larger share, or test fewer --policies"
        )


def _check_test(test: Measured) -> None:
    """Raise InputError for test prompts whose rates would have no interval."""
    for label in (HARMFUL, HARMLESS):
        n = len(set(test.clusters_N[test.labels_N == label].tolist()))
        if n < MIN_CLUSTERS:
            raise InputError(
                f"{test.path} has too few prompts: {n} {label} ones (pairs) test, expected at "
                f"least {MIN_CLUSTERS}"
            )


def _choose(measured: Measured, tests: RuleTests) -> tuple[int | None, str | None]:
    """The certified rule with the fewest layers on harmless prompts, or why there is none.

    It must be competent, as in the table windows: what cannot answer shows no safety. Of rules with
    equal layers it is the one that exits later.
    """
    is_harmless_N = measured.has_label(QUALITY_LOSS)
    answered = Answered(
        measured.shares[Outcome.COMPLY][is_harmless_N],
        measured.samples,
        measured.clusters_N[is_harmless_N],
    )
    can_answer_R = find_competent(answered, Windows(), measured.full)[1] == Competence.YES
    if not can_answer_R[measured.full]:
        rate = answered.by_exit()[measured.full]
        return None, (
            f"full depth answers {rate:.0%} of the harmless prompts to the point: what cannot "
            "answer shows no safety"
        )
    layers_R, thresholds = _harmless_layers(measured).round(9), measured.rules["threshold"]
    rows = np.flatnonzero(tests.certified_R & can_answer_R).tolist()
    if not rows:
        return None, "no exit or policy keeps all risks within tolerance"
    return min(rows, key=lambda r: (layers_R[r], -thresholds[r])), None


def _harmless_layers(measured: Measured) -> np.ndarray:
    return measured.layers_NR[measured.labels_N == HARMLESS].mean(axis=0)


def _rule_of(measured: Measured, row: int) -> dict:
    rule = measured.rules.iloc[row]
    exit_layer = None if pd.isna(rule["exit"]) else int(rule["exit"])
    names = {name: rule[name] for name in ("rule", "family")}
    return names | {"threshold": float(rule["threshold"]), "exit": exit_layer}


def _tested(
    measured: Measured,
    tests: RuleTests,
    sequences: Sequence[Sequence[int]],
    losses: dict[str, Losses],
) -> list[dict]:
    """Every tested rule in the order of its sequence."""
    layers_R = _harmless_layers(measured)
    return [
        _rule_of(measured, r)
        | {
            "passed": bool(tests.certified_R[r]),
            "p": float(tests.p_R[r]),
            "layers": float(layers_R[r]),
            "risks": {
                risk: {
                    "n": len(losses[risk].loss_CR),
                    "losses": float(losses[risk].loss_CR[:, r].sum()),
                    "rate": float(losses[risk].loss_CR[:, r].mean()),
                    "p": float(tests.p_KR[k, r]),
                }
                for k, risk in enumerate(RISKS)
            },
        }
        for rows in sequences
        for r in rows
    ]


def _next(
    measured: Measured,
    tests: RuleTests,
    sequences: Sequence[Sequence[int]],
    losses: dict[str, Losses],
    tolerances: dict[str, float],
    error: float,
) -> list[dict]:
    """The first rule of each sequence that failed, and how many prompts would certify it."""
    failed = []
    for rows in sequences:
        r = next((r for r in rows if not tests.certified_R[r]), None)
        if r is None:
            continue
        level = error / len(sequences)
        needed = {
            risk: prompts_to_certify(float(losses[risk].loss_CR[:, r].mean()), tolerance, level)
            for (risk, tolerance), p in zip(tolerances.items(), tests.p_KR[:, r], strict=True)
            if p > level
        }
        failed.append(_rule_of(measured, r) | {"prompts": needed})
    return failed


def _test_rates(test: Measured, row: int) -> dict:
    """The rates and depths of a rule on test prompts, each rate with its own 95% interval."""
    rates = {}
    for risk in RISKS:
        clusters_N = test.clusters_N[test.has_label(risk)]
        share = mean_share(test.loss_shares(risk)[:, [row]], test.samples, clusters_N)
        rates[risk] = {"value": share.value, "low": share.low, "high": share.high, "n": share.n}
    layers = {
        label: float(test.layers_NR[test.labels_N == label, row].mean())
        for label in (HARMFUL, HARMLESS)
    }
    return {"rates": rates, "layers": layers}


def _prompts(measured: Measured) -> dict:
    counts = {label: int((measured.labels_N == label).sum()) for label in (HARMFUL, HARMLESS)}
    return counts | {"ids": sorted(measured.ids_N.tolist())}


def _digests(measured: Measured) -> dict:
    """The tables that were read, and their digests."""
    tables = ("prompts", TABLE_OF[measured.record["settings"]["command"]])
    digests = {name: measured.record["tables"][name]["sha256"] for name in tables}
    prompts = measured.record["settings"]["prompts_sha256"]
    return {"path": str(measured.path), "prompts_sha256": prompts, "tables": digests}
