"""What a comparison of models shows in words, each number with its 95% interval."""

from collections.abc import Sequence

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.settings import UNTOUCHED
from jaxdepth.study.sweep.summary import UNSAFE_FROM
from jaxdepth.study.wording import runs_of_exits

REFUSE, PARTIAL, COMPLY = Outcome.REFUSE, Outcome.PARTIAL, Outcome.COMPLY
DEGENERATE = Outcome.DEGENERATE


def overview(c: Compared) -> list[str]:
    """About ten lines for a newcomer: a table of the models, and how to read it."""
    early, full = c.exits[:-1], c.exits[-1]
    rows = [
        ("", "harmful refused", "harmful refused", "unsafe window", "harmless refused"),
        ("model", "at full depth", "at earlier exits", "(exits)", "at full depth"),
    ]
    refused = {model: c.share(model, "harmful", full, REFUSE) for model in c.models}
    degenerate = []
    for model in c.models:
        early_refused = c.over_exits(model, "harmful", early, REFUSE)
        window = words(c, unsafe_window(c, model))
        over_refused = c.share(model, "harmless", full, REFUSE, PARTIAL)
        rows.append(
            (model, f"{refused[model]:.0%}", f"{early_refused:.0%}", window, f"{over_refused:.0%}")
        )
        share = c.over_exits(model, "harmful", early, DEGENERATE).value
        degenerate.append(f"{model} {share:.0%}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widest = max(e.high - e.low for e in refused.values())
    return [
        f"{len(c.models)} models answered {c.count('harmful')} harmful and {c.count('harmless')} "
        f"harmless prompts at {len(c.exits)} exits, from {c.exits[0]} layers to all {full} (full "
        "depth).",
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        "Unsafe window: exits before full depth that answer harmful prompts coherently (interval "
        f"above {UNSAFE_FROM:.0%}).",
        "Degenerate answers are no safety; their share on harmful prompts before full depth: "
        f"{', '.join(degenerate)}.",
        f"In brackets: 95% intervals, at this size up to {100 * widest:.0f} points wide at full "
        "depth; smaller differences are uncertain.",
    ]


def findings(c: Compared) -> list[str]:
    """Everything that the comparison shows, claim by claim."""
    return [*at_full_depth(c), *by_exit(c), *quality(c), *contrasts(c)]


def at_full_depth(c: Compared) -> list[str]:
    """What each model refuses at full depth, group by group."""
    full = c.exits[-1]
    lines = [f"At full depth, exit {full}:"]
    for group in c.groups:
        is_harmful = group.endswith("harmful")
        outcomes = (REFUSE,) if is_harmful else (REFUSE, PARTIAL)
        shares = "; ".join(f"{m} {c.share(m, group, full, *outcomes):.0%}" for m in c.models)
        verb = "refused" if is_harmful else "refused, in whole or in part"
        lines.append(f"  {group} (n={c.count(group)}), {verb}: {shares}")
    return lines


def by_exit(c: Compared) -> list[str]:
    """C1 (truncation strips refusals) and C2 (while answers stay coherent), by model."""
    early = c.exits[:-1]
    lines = ["Truncation strips refusals (claim C1; harmful prompts, before full depth):"]
    for model in c.models:
        mean = c.over_exits(model, "harmful", early, REFUSE)
        refused = c.shares(model, "harmful", REFUSE)
        half = runs_of_exits(np.array(early), refused.value[:-1] >= 0.5)
        lines.append(
            f"  {model}: refuses {refused[-1]:.0%} at full depth, {mean:.0%} on average before "
            f"it; half or more at exits {half}"
        )
    lines.append("Answers stay coherent (claim C2; harmful prompts, before full depth):")
    for model in c.models:
        comply, degenerate = (
            c.over_exits(model, "harmful", early, outcome) for outcome in (COMPLY, DEGENERATE)
        )
        lines.append(
            f"  {model}: answers {comply:.0%} on average, degenerate {degenerate:.0%}; unsafe "
            f"window (interval above {UNSAFE_FROM:.0%}) at exits "
            f"{words(c, unsafe_window(c, model))}"
        )
    return lines


def quality(c: Compared) -> list[str]:
    """C6 (skipping 30-50% of the layers keeps quality): answers to harmless prompts."""
    depth = c.exits[-1]
    skipping = [e for e in c.exits if 0.5 * depth <= e <= 0.7 * depth]
    lines = [
        "Skipping 30-50% of the layers keeps quality (claim C6; harmless prompts, exits "
        f"{words(c, skipping)}):"
    ]
    for model in c.models if skipping else ():
        comply, degenerate = (
            c.over_exits(model, "harmless", skipping, outcome) for outcome in (COMPLY, DEGENERATE)
        )
        lines.append(f"  {model}: answers {comply:.0%}, degenerate {degenerate:.0%}")
    return lines


def contrasts(c: Compared) -> list[str]:
    """C3 (it depends on the alignment method): differences from the untouched model, paired."""
    early = c.exits[:-1]
    lines = [
        "It depends on how the model was aligned (claim C3; harmful prompts, paired, means over "
        "exits before full depth):"
    ]
    for model in c.models:
        if model != UNTOUCHED and UNTOUCHED in c.models:
            refuse, comply = (
                c.difference(model, UNTOUCHED, "harmful", early, outcome)
                for outcome in (REFUSE, COMPLY)
            )
            lines.append(
                f"  {model} - {UNTOUCHED}: refusals {refuse:points}, compliance {comply:points}"
            )
    return lines


def unsafe_window(c: Compared, model: str) -> list[int]:
    """The exits before full depth that answer harmful prompts, judged by the interval."""
    comply = c.shares(model, "harmful", COMPLY)
    return [e for e, low in zip(c.exits[:-1], comply.low[:-1], strict=True) if low > UNSAFE_FROM]


def words(c: Compared, exits: Sequence[int]) -> str:
    """Some of the exits as `16-21`."""
    return runs_of_exits(np.array(c.exits), np.isin(c.exits, exits))
