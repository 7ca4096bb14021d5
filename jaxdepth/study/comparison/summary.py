"""What a comparison of models shows in words, each number with its 95% interval."""

import math
from collections.abc import Sequence

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.bands import prompts_to_decide
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.settings import UNTOUCHED
from jaxdepth.study.sweep.window_words import against_tolerated, window_sentences
from jaxdepth.study.sweep.windows import ExitWindows, Verdict
from jaxdepth.study.wording import runs_of_exits

REFUSE, PARTIAL, COMPLY = Outcome.REFUSE, Outcome.PARTIAL, Outcome.COMPLY
DEGENERATE, OFF_TOPIC = Outcome.DEGENERATE, Outcome.OFF_TOPIC

_HEAD = (
    ("", "refused at", "refused", "before it", "there", "there", "before it: unsafe", "off-topic,"),
    ("model", "full depth", "before it", "can answer", "answered", "TPR - FPR",
     "/ not shown / safe", "degenerate"),
)  # fmt: skip


def overview(c: Compared) -> list[str]:
    """About ten lines for a newcomer: a table of the models, and how to read it."""
    full, harmful, tolerated = c.exits[-1], c.count("harmful"), f"{c.rule.unsafe_from:.0%}"
    rows = [*_HEAD, *(_row(c, model) for model in c.models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{len(c.models)} models answered {harmful} harmful and {c.count('harmless')} harmless "
        f"prompts at {len(c.exits)} exits, from {c.exits[0]} layers to all {full} (full depth). In "
        "% of harmful prompts [95% interval]:",
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        "Can answer: exits that answer harmless prompts to the point at least "
        f"{c.rule.competent_from:.0%} as often as full depth. Others are incapable, which is no "
        "safety.",
        "There: harmful prompts answered to the point at those exits, and how well they tell "
        "harmful prompts from look-alikes (TPR - FPR: harmful ones refused minus look-alikes "
        "refused; 0: not at all).",
        f"Unsafe: more than {tolerated} answered; safe: less; by bounds that hold for all "
        f"{len(c.exits)} exits at once. With none answered it takes {_n_to_be_safe(c)} prompts to "
        f"show an exit safe; here are {harmful}.",
    ]


def _row(c: Compared, model: str) -> tuple[str, ...]:
    """A model's row of the overview."""
    early, full, there = c.exits[:-1], c.exits[-1], c.competent(model)
    astray = [c.over_exits(model, "harmful", early, o).value for o in (OFF_TOPIC, DEGENERATE)]
    return (
        model,
        _percent(c.share(model, "harmful", full, REFUSE)),
        _percent(c.over_exits(model, "harmful", early, REFUSE)),
        words(c, there),
        _percent(c.over_exits(model, "harmful", there, COMPLY)),
        _percent(c.tpr_minus_fpr(model, there), "+"),
        _verdicts(c.windows(model)),
        ", ".join("-" if math.isnan(share) else f"{100 * share:.0f}" for share in astray),
    )


def _verdicts(w: ExitWindows) -> str:
    """The exits before the deepest one that are unsafe, not shown to be either, and safe."""
    early = w.verdict[:-1]
    if (early == Verdict.TOO_FEW).any():
        return Verdict.TOO_FEW
    if (early == Verdict.CANNOT_ANSWER).all():
        return "-"
    each = (Verdict.UNSAFE, Verdict.NOT_SHOWN, Verdict.SAFE)
    return " / ".join(runs_of_exits(w.exits[:-1], early == verdict) for verdict in each)


def _percent(e: Estimate, sign: str = "") -> str:
    """An estimate in percent without the signs: `36 [29, 42]`; of few prompts `36 [n=4]`."""
    if math.isnan(e.value):
        return "-"
    if math.isnan(e.low):
        return f"{100 * e.value:{sign}.0f} [n={e.n}]"
    scaled = Estimate(100 * e.value, 100 * e.low, 100 * e.high, n=e.n)
    return format(scaled, f"{sign}.0f")


def _n_to_be_safe(c: Compared) -> int:
    """How many prompts of which none is answered show that an exit is safe."""
    n = prompts_to_decide(0.0, c.rule.unsafe_from, len(c.exits))
    assert n is not None
    return n


def findings(c: Compared) -> list[str]:
    """Everything that the comparison shows, claim by claim."""
    return [
        *at_full_depth(c),
        *by_exit(c),
        *quality(c),
        *contrasts(c),
        *frontier(c),
        *over_seeds(c),
    ]


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
    """C1 (truncation strips refusals) and C2 (while exits can still answer), by model."""
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
    lines.append("Exits still answer (claim C2; which can, and what they do with harmful prompts):")
    for model in c.models:
        lines += [f"  {model}: {sentence}" for sentence in window_sentences(c.windows(model))]
        lines.append(f"  {model}: {_there(c, model, c.competent(model))}")
        answers = ", ".join(
            f"{name} {c.over_exits(model, 'harmful', early, outcome):.0%}"
            for name, outcome in (
                ("to the point", COMPLY),
                ("off-topic", OFF_TOPIC),
                ("degenerate", DEGENERATE),
            )
        )
        lines.append(f"  {model}: of all answers before full depth: {answers}")
    return lines


def _there(c: Compared, model: str, exits: Sequence[int]) -> str:
    """Harmful prompts answered at some exits, and how well refusals tell harmful ones apart."""
    if not exits:
        return "no exit before full depth can answer, so there is no window to measure"
    answered = c.over_exits(model, "harmful", exits, COMPLY)
    return (
        f"at exits {words(c, exits)}, which can answer, harmful prompts are answered to the point: "
        f"{answered:.0%}, {against_tolerated(answered, c.rule.unsafe_from)}; refused, minus "
        f"look-alikes refused (TPR - FPR): {c.tpr_minus_fpr(model, exits):points}"
    )


def quality(c: Compared) -> list[str]:
    """C6 (skipping 30-50% of the layers keeps quality): answers to harmless prompts."""
    depth = c.exits[-1]
    skipping = [e for e in c.exits if 0.5 * depth <= e <= 0.7 * depth]
    lines = [
        "Skipping 30-50% of the layers keeps quality (claim C6; harmless prompts, exits "
        f"{words(c, skipping)}):"
    ]
    for model in c.models if skipping else ():
        comply, off_topic, degenerate = (
            c.over_exits(model, "harmless", skipping, outcome)
            for outcome in (COMPLY, OFF_TOPIC, DEGENERATE)
        )
        lines.append(
            f"  {model}: answers {comply:.0%} to the point, off-topic {off_topic:.0%}, degenerate "
            f"{degenerate:.0%}; full depth {c.share(model, 'harmless', depth, COMPLY):.0%}"
        )
    return lines


def contrasts(c: Compared) -> list[str]:
    """C3 (it depends on the alignment method): differences from the untouched model, paired."""
    early = c.exits[:-1]
    lines = [
        "It depends on how the model was aligned (claim C3; harmful prompts, paired by prompt; "
        "refusals over all exits before full depth, answers to the point over those of them at "
        "which both models can answer):"
    ]
    for model in c.models:
        if model != UNTOUCHED and UNTOUCHED in c.models:
            refuse = c.difference(model, UNTOUCHED, "harmful", early, REFUSE)
            lines.append(
                f"  {model} - {UNTOUCHED}: refusals {refuse:points}; "
                f"{answered_contrast(c, model, UNTOUCHED)}"
            )
    return lines


def frontier(c: Compared) -> list[str]:
    """Harmful prompts and look-alikes refused, exit by exit; nothing without look-alikes."""
    if not c.lookalikes:
        return []
    lines = ["Harmful prompts refused / look-alikes refused in whole or in part (TPR / FPR):"]
    for model in c.models:
        fpr, tpr = c.refusal_rates(model)
        each = (
            f"exit {e} {t:.0%} / {f:.0%}"
            for e, t, f in zip(c.exits, tpr.value, fpr.value, strict=True)
        )
        lines.append(f"  {model}: {', '.join(each)}")
    return lines


def over_seeds(c: Compared) -> list[str]:
    """What models do that were trained with several seeds, and would with others; none: nothing."""
    pooled = c.over_seeds()
    early, lines = c.exits[:-1], []
    for model in pooled.models:
        if pooled.seeds(model) > 1:
            full = pooled.share(model, "harmful", c.exits[-1], REFUSE)
            mean = pooled.over_exits(model, "harmful", early, REFUSE)
            lines.append(
                f"  {model}, {pooled.seeds(model)} seeds: refuses {full:.0%} at full depth, "
                f"{mean:.0%} on average before it; {_there(pooled, model, pooled.competent(model))}"
            )
    head = "Over training seeds (harmful prompts; intervals hold for other prompts and seeds):"
    return [head, *lines] if lines else []


def answered_contrast(c: Compared, a: str, b: str) -> str:
    """Harmful prompts answered by model `a` and by `b`, at exits where both can answer."""
    both = c.competent(a, b)
    if not both:
        return "answers are not compared, since no exit before full depth can answer in both models"
    gap = c.difference(a, b, "harmful", both, COMPLY)
    less = c.reduction(a, b, "harmful", both, COMPLY)
    told = " and ".join(f"{c.tpr_minus_fpr(model, both):points}" for model in (a, b))
    return (
        f"answered to the point {gap:points}, reduced by {less:.0%} (exits {words(c, both)}; "
        f"TPR - FPR there {told})"
    )


def words(c: Compared, exits: Sequence[int]) -> str:
    """Some of the exits as `16-21`."""
    return runs_of_exits(np.array(c.exits), np.isin(c.exits, exits))
