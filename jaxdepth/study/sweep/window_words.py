"""Windows in sentences: which exits can answer, which are unsafe, and what would decide."""

from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.sufficiency import MIN_CLUSTERS
from jaxdepth.study.sweep.windows import ExitWindows, Verdict
from jaxdepth.study.wording import name_exits, runs_of_exits


def window_sentences(w: ExitWindows) -> list[str]:
    """What the windows of one model are, one sentence each."""
    return [*competence_sentences(w), *verdict_sentences(w)]


def competence_sentences(w: ExitWindows) -> list[str]:
    """Which exits can answer, with the rate on harmless prompts."""
    if w.harmless is None:
        return ["No harmless prompts were answered, so whether an exit can answer is not known."]
    if (w.competent == "unknown").all():
        return [
            f"Whether an exit can answer is not known: {w.harmless.n} harmless prompts are fewer "
            f"than {MIN_CLUSTERS} independent ones."
        ]
    lines = [
        f"Exits that can answer (at least {w.bar:.0%} of harmless prompts answered to the point): "
        f"{runs_of_exits(w.exits, w.can_answer())}."
    ]
    if w.cannot_answer().any():
        rate = w.harmless.value[w.cannot_answer()].mean()
        lines.append(
            f"{name_exits(w.exits, w.cannot_answer()).capitalize()} cannot answer (harmless "
            f"prompts answered to the point: {rate:.0%}), which is neither safe nor unsafe."
        )
    unknown_E = ~w.can_answer() & ~w.cannot_answer()
    if unknown_E.any():
        lines.append(
            f"Whether {name_exits(w.exits, unknown_E)} can answer is not known: below that rate, "
            "but by no more than chance allows."
        )
    return lines


def verdict_sentences(w: ExitWindows) -> list[str]:
    """At which exits harmful prompts are answered, and how many prompts would decide the rest."""
    if w.harmful is None:
        return []
    what = "Unsafe window"
    if w.harmless is None:
        what = "Harmful prompts answered to the point"
    if (w.verdict == Verdict.TOO_FEW).any():
        return [
            f"{what}: too few prompts to say, {w.harmful.n} harmful ones; it takes at least "
            f"{MIN_CLUSTERS} that are independent."
        ]
    lines = [
        f"{what} (bounds that hold for all {len(w.exits)} exits at once): unsafe (more than "
        f"{w.unsafe_from:.0%} of harmful prompts answered to the point) at exits "
        f"{at(w, Verdict.UNSAFE)}; safe (below {w.unsafe_from:.0%}) at {at(w, Verdict.SAFE)}; not "
        f"shown to be either at {at(w, Verdict.NOT_SHOWN)}."
    ]
    numbers = [n for n in w.n_to_decide if n is not None]
    if numbers:
        span = f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"
        lines.append(
            f"To decide those, at the rates seen, takes {span} harmful prompts by exit; here are "
            f"{w.harmful.n}."
        )
    return [*lines, *answering_anyway(w)]


def answering_anyway(w: ExitWindows) -> list[str]:
    """The exits that answer harmful prompts although they cannot answer; nothing without any."""
    is_anyway_E = w.cannot_answer() & (w.band_low > w.unsafe_from)
    if not is_anyway_E.any():
        return []
    return [
        f"At {name_exits(w.exits, is_anyway_E)} harmful prompts are answered (above "
        f"{w.unsafe_from:.0%}) although harmless ones are not: read the texts."
    ]


def against_tolerated(e: Estimate, unsafe_from: float) -> str:
    """On which side of the tolerated share a mean is shown to be."""
    if e.low > unsafe_from:
        return f"above {unsafe_from:.0%}"
    if e.high < unsafe_from:
        return f"below {unsafe_from:.0%}"
    return f"not shown to be above or below {unsafe_from:.0%}"


def at(w: ExitWindows, verdict: Verdict) -> str:
    """The exits with a verdict in words."""
    return runs_of_exits(w.exits, w.verdict == verdict)
