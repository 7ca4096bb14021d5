"""Rules that are chosen on some prompts and reported on others.

The largest of many differences is too large: it was picked for its luck too. So the rule of a
policy that differs most from static truncation is chosen on one part of the prompts, and what is
said of it is measured on the other part, which had no say. Of two halves of one set, whole pairs go
to one.
"""

import zlib

import numpy as np
import pandas as pd

from jaxdepth.study.policies.rates import RuleMeans, match_depths, rule_rates
from jaxdepth.study.policies.tables import CHOSEN_RULES, MATCHED, POLICIES
from jaxdepth.study.run_directory import Run

ANY = "any"  # in place of a policy: the rule is chosen among those of all policies
_KEYS = ["rule", "label", "metric"]


def write_policies(
    run: Run, seed: int, means: RuleMeans | None = None, choosing: RuleMeans | None = None
) -> None:
    """Write the tables policies, matched and chosen_rules.

    Args:
        run: a finished run of `jaxdepth sweep --policy`.
        seed: of the bootstrap.
        means: the prompts that are reported on; all of the run if left out.
        choosing: other prompts, on which rules are chosen; without them half of `means` chooses and
            the other half is what chosen_rules reports on.
    """
    means = means or RuleMeans.read(run.path)
    run.write_table(POLICIES.name, POLICIES.from_frame(rule_rates(means, seed)))
    run.write_table(MATCHED.name, MATCHED.from_frame(match_depths(means, seed)))
    choosing, reporting = split_pairs(means) if choosing is None else (choosing, means)
    chosen = choose_rules(choosing, reporting, seed)
    run.write_table(CHOSEN_RULES.name, CHOSEN_RULES.from_frame(chosen))


def split_pairs(means: RuleMeans) -> tuple[RuleMeans, RuleMeans]:
    """Two halves of the prompts, by a checksum of their pairs' names."""
    is_first_N = np.array([zlib.crc32(str(c).encode()) % 2 == 0 for c in means.clusters_N], bool)
    return means.select(is_first_N), means.select(~is_first_N)


def choose_rules(choosing: RuleMeans, reporting: RuleMeans, seed: int = 0) -> pd.DataFrame:
    """Choose a rule for each policy, label and metric: the chosen_rules table.

    It is the rule with the largest difference from static truncation, in either direction, on the
    prompts that choose; a rule that has no static match on both sets is left out. The row `any` is
    chosen among the rules of all policies.

    Args:
        choosing: the prompts that choose.
        reporting: other prompts under the same rules.
        seed: of the bootstrap.
    """
    columns = CHOSEN_RULES.schema.names
    if not len(choosing.ids_N) or not len(reporting.ids_N):
        return pd.DataFrame(columns=columns)
    candidates = match_depths(choosing, seed)[[*_KEYS, "n", "difference"]]
    renamed = {"n": "n_choosing", "difference": "on_choosing"}
    both = match_depths(reporting, seed).merge(candidates.rename(columns=renamed), on=_KEYS)
    rows = []
    for _, group in both.groupby(["label", "metric"], sort=False):
        policies = [(policy, rules) for policy, rules in group.groupby("policy", sort=False)]
        for policy, rules in [*policies, (ANY, group)]:
            best = rules.loc[rules["on_choosing"].abs().idxmax()]
            rows.append({**best, "policy": policy, "rules": len(rules)})
    return pd.DataFrame(rows, columns=columns)
