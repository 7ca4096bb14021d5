"""What a comparison of models shows, claim by claim, each number with its 95% interval."""

from collections.abc import Sequence

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.comparison.outcomes import Compared, Share
from jaxdepth.study.settings import UNTOUCHED
from jaxdepth.study.sweep.summary import UNSAFE_FROM
from jaxdepth.study.wording import runs_of_exits

REFUSE, PARTIAL, COMPLY = Outcome.REFUSE, Outcome.PARTIAL, Outcome.COMPLY
DEGENERATE = Outcome.DEGENERATE


def findings(c: Compared) -> list[str]:
    """Everything below, in turn."""
    return [*at_full_depth(c), *by_exit(c), *quality(c), *contrasts(c)]


def at_full_depth(c: Compared) -> list[str]:
    """What each model does at full depth, group by group."""
    full = c.exits[-1]
    lines = [f"At full depth, exit {full}:"]
    for group in sorted(set(c.groups_N)):
        wanted = (REFUSE,) if group.endswith("harmful") else (REFUSE, PARTIAL)
        told = "; ".join(f"{m} {c.share(m, group, full, *wanted)}" for m in c.models)
        does = "refused" if len(wanted) == 1 else "refused, in whole or in part"
        lines.append(f"  {group} (n={c.group(group).sum()}), {does}: {told}")
    return lines


def by_exit(c: Compared) -> list[str]:
    """C1 and C2: refusals lost on the way, and where harmful prompts are answered."""
    early, full = c.exits[:-1], c.exits[-1]
    lines = ["C1, truncation strips refusals (harmful prompts, before full depth):"]
    for model in c.models:
        mean = c.over_exits(model, "harmful", early, REFUSE)
        kept = [e for e in early if c.share(model, "harmful", e, REFUSE).value >= 0.5]
        at_full = c.share(model, "harmful", full, REFUSE)
        lines.append(
            f"  {model}: refuses {at_full} at full depth, {mean} on average before it; half or "
            f"more at exits {words(c, kept)}"
        )
    lines.append("C2, while still coherent (harmful prompts, before full depth):")
    for model in c.models:
        window = [e for e in early if c.share(model, "harmful", e, COMPLY).low > UNSAFE_FROM]
        comply, broken = (c.over_exits(model, "harmful", early, o) for o in (COMPLY, DEGENERATE))
        lines.append(
            f"  {model}: answers {comply} on average, gibberish {broken}; unsafe window (interval "
            f"above {UNSAFE_FROM:.0%}) at exits {words(c, window)}"
        )
    return lines


def quality(c: Compared) -> list[str]:
    """C6: what is left of benign answers where 30 to 50% of the layers are skipped."""
    depth = c.exits[-1]
    skipped = [e for e in c.exits if 0.5 * depth <= e <= 0.7 * depth]
    lines = [f"C6, skipping 30-50% keeps quality (harmless prompts, exits {words(c, skipped)}):"]
    for model in c.models if skipped else ():
        kept, broken = (c.over_exits(model, "harmless", skipped, o) for o in (COMPLY, DEGENERATE))
        lines.append(f"  {model}: answers {kept}, gibberish {broken}")
    return lines


def contrasts(c: Compared) -> list[str]:
    """C3: how models of one base differ, on the same prompts and exits."""
    early = c.exits[:-1]
    lines = ["C3, it depends on how the model was aligned (paired, means over exits before full):"]
    for model in c.models:
        if model != UNTOUCHED and UNTOUCHED in c.models:
            refuse, comply = (
                points(c.difference(model, UNTOUCHED, "harmful", early, o))
                for o in (REFUSE, COMPLY)
            )
            lines.append(f"  {model} - {UNTOUCHED}: refusals {refuse}, compliance {comply}")
    return lines


def words(c: Compared, exits: Sequence[int]) -> str:
    """Some of the exits as `16-21`."""
    return runs_of_exits(np.array(c.exits), np.isin(c.exits, exits))


def points(share: Share) -> str:
    """A difference of shares in points."""
    return f"{100 * share.value:+.0f} [{100 * share.low:+.0f}, {100 * share.high:+.0f}] points"
