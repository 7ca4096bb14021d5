"""Exit rules, each a policy with a threshold, from the options of `jaxdepth sweep`."""

from collections.abc import Sequence
from dataclasses import fields

from jaxdepth.depth.policies import Caching, ExitRule, Guard, Policy
from jaxdepth.errors import InputError, nearest
from jaxdepth.probing.direction import parse_direction
from jaxdepth.study.policies.settings import Policies

GUARDED_EXAMPLE = "guarded=content@12:0.5,0.9/20,24"
# Policies whose thresholds are probabilities or cosines, which may decay along an answer.
_DECAYING = (Policy.TOP1, Policy.MARGIN, Policy.SATURATION, Policy.CLASSIFIER)


def parse_rules(
    policies: Sequence[str], decay: float | None = None, caching: str = Caching.LATE
) -> list[ExitRule]:
    """Parse rules from `NAME=T1,T2` or `guarded=PROBE@LAYER:T1,T2/E1,E2`.

    The oracle needs no threshold; without exits E a guarded rule has the first candidate that is
    not before LAYER.

    Args:
        policies: as `--policy` takes them.
        decay: of the thresholds of top1, margin, saturation and classifier.
        caching: of all rules but the oracle's, which is always late.

    Raises:
        InputError: no such policy, a threshold is missing, no number, or named twice.
    """
    rules = []
    for option in policies:
        name, equals, thresholds = option.partition("=")
        if name not in list(Policy):
            raise InputError(f"no exit policy {name!r}{nearest(name, list(Policy))}")
        policy = Policy(name)
        is_oracle = policy == Policy.ORACLE
        if is_oracle and not equals:
            thresholds = "1"
        example = f"{name}=0.5,0.9"
        guards: list[Guard] | list[None] = [None]
        if policy == Policy.GUARDED:
            example = GUARDED_EXAMPLE
            guards, thresholds = _parse_guards(option, thresholds)
        numbers = [_number(option, threshold, example) for threshold in thresholds.split(",")]
        rules += [
            ExitRule(
                policy,
                number,
                decay if policy in _DECAYING else None,
                Caching.LATE if is_oracle else Caching(caching),
                guard,
            )
            for guard in guards
            for number in numbers
        ]
    if len(set(rules)) < len(rules):
        raise InputError(f"policies {' '.join(policies)} name a rule twice")
    return rules


def _number(option: str, threshold: str, example: str) -> float:
    try:
        return float(threshold)
    except ValueError:
        raise InputError(
            f"policy {option!r}: {threshold!r} is no threshold; write {example}"
        ) from None


def _parse_guards(option: str, text: str) -> tuple[list[Guard], str]:
    """The guards of `PROBE@LAYER:THRESHOLDS/EXITS`, one for each exit, and the thresholds."""
    probe_at, _, thresholds = text.rpartition(":")
    thresholds, slash, exits = thresholds.partition("/")
    try:
        name, layer = parse_direction(probe_at)
        first_exits = [int(exit_layer) for exit_layer in exits.split(",")] if slash else [None]
    except (InputError, ValueError):
        raise InputError(
            f"policy {option!r}: expected guarded=PROBE@LAYER:THRESHOLDS or .../EXITS, such as "
            f"{GUARDED_EXAMPLE}"
        ) from None
    return [Guard(name, layer, first_exit) for first_exit in first_exits], thresholds


def rule_name(rule: ExitRule) -> str:
    """The name of a rule in tables and figures: `margin 0.3`, `guarded content@12/24 0.9`."""
    if rule.policy == Policy.ORACLE:
        return str(rule.policy)
    words = [str(rule.policy)]
    if rule.guard is not None:
        first = "" if rule.guard.first_exit is None else f"/{rule.guard.first_exit}"
        words.append(f"{rule.guard.probe}@{rule.guard.layer}{first}")
    return " ".join([*words, f"{rule.threshold:g}"])


def family_of(name: str) -> str:
    """The name of a rule without its threshold: rules of a family differ in that alone."""
    return name.rpartition(" ")[0] or name


def check_static(policies: Policies) -> None:
    """Raise InputError for options of policies that are given without --policy."""
    for field in fields(policies):
        if getattr(policies, field.name) != field.default:
            raise InputError(
                f"--{field.name} applies to exit policies only: name some with --policy"
            )
