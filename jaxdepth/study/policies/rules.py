"""Exit rules, each a policy with a threshold, from the options of `jaxdepth sweep`."""

from collections.abc import Sequence
from dataclasses import fields

from jaxdepth.depth.policies import Caching, ExitRule, Policy
from jaxdepth.errors import InputError, nearest
from jaxdepth.study.policies.settings import Policies

# Policies whose thresholds are probabilities or cosines, which may decay along an answer.
_DECAYING = (Policy.TOP1, Policy.MARGIN, Policy.SATURATION, Policy.CLASSIFIER)


def parse_rules(
    policies: Sequence[str], decay: float | None = None, caching: str = Caching.LATE
) -> list[ExitRule]:
    """Parse rules from `NAME=T1,T2`; the oracle needs no threshold.

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
        for threshold in thresholds.split(","):
            try:
                number = float(threshold)
            except ValueError:
                raise InputError(
                    f"policy {option!r}: {threshold!r} is no threshold; write {name}=0.5,0.9"
                ) from None
            rules.append(
                ExitRule(
                    policy,
                    number,
                    decay if policy in _DECAYING else None,
                    Caching.LATE if is_oracle else Caching(caching),
                )
            )
    if len(set(rules)) < len(rules):
        raise InputError(f"policies {' '.join(policies)} name a rule twice")
    return rules


def rule_name(rule: ExitRule) -> str:
    """The name of a rule in tables and figures, such as `margin 0.3`."""
    return str(rule.policy) if rule.policy == Policy.ORACLE else f"{rule.policy} {rule.threshold:g}"


def check_static(policies: Policies) -> None:
    """Raise InputError for options of policies that are given without --policy."""
    for field in fields(policies):
        if getattr(policies, field.name) != field.default:
            raise InputError(
                f"--{field.name} applies to exit policies only: name some with --policy"
            )
