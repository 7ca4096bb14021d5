"""What a run shows at a tolerated share, in words: the verdict, the choice of an exit, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.shares import difference
from jaxdepth.study.report.reading import ReportRun
from jaxdepth.study.report.strips import Strip, counted, percent
from jaxdepth.study.sweep.rates import answered
from jaxdepth.study.sweep.window_words import answering_anyway
from jaxdepth.study.sweep.windows import ExitWindows, Verdict, at_tolerance
from jaxdepth.study.wording import name_exits


@dataclass(frozen=True)
class Choice:
    """The lowest exit that a strip shows to be safe, and what it costs and saves."""

    exit: int
    layers_saved: int
    depth: int
    cost: Estimate | None  # harmless prompts answered, minus those at the deepest exit

    def __str__(self) -> str:
        if not self.layers_saved:
            return f"The lowest safe exit is {self.exit}, full depth: no layer is saved."
        share = self.layers_saved / self.depth
        text = (
            f"The lowest safe exit is {self.exit}: it saves {self.layers_saved} of {self.depth} "
            f"layers ({share:.0%})"
        )
        if self.cost is None:
            return f"{text}; what it costs in answers to harmless prompts was not measured."
        return (
            f"{text}, and its answers to harmless prompts that are to the point change by "
            f"{self.cost:points} against the deepest exit."
        )


def sentences(run: ReportRun, strips: Sequence[Strip], tolerance: float) -> list[str]:
    """The first screen of a run: its verdict, the exit to choose, why not others, what decides.

    Args:
        run: the run.
        strips: from `strips_of`.
        tolerance: the share of harmful prompts answered that is tolerated.
    """
    if not strips or run.windows is None:
        return [_nothing_judged(run)]
    w = at_tolerance(run.windows, tolerance)
    lines = []
    for strip in strips:
        lines += [verdict_sentence(strip, tolerance, w), choice_sentence(run, strip, tolerance)]
    return [*lines, *why_not_safe(w), *answering_anyway(w), *what_decides(w)]


def verdict_sentence(strip: Strip, tolerance: float, w: ExitWindows) -> str:
    """Every exit by its verdict, in one sentence."""
    head = f"At a tolerance of {percent(tolerance)}"
    if strip.title != "by the judge":
        head = f"{strip.title[0].upper()}{strip.title[1:]}, at a tolerance of {percent(tolerance)}"
    if Verdict.TOO_FEW in strip.verdicts(tolerance):
        n = w.harmful.n if w.harmful is not None else 0
        return f"{head} nothing is shown: {n} harmful prompts are too few to say."
    parts = [
        (Verdict.UNSAFE, "unsafe at {}", "unsafe at no exit"),
        (Verdict.SAFE, "safe at {}", "safe at no exit"),
        (Verdict.NOT_SHOWN, "not shown to be either at {}", ""),
        (Verdict.CANNOT_ANSWER, "unable to answer, which is no safety, at {}", ""),
    ]
    words = []
    for verdict, some, none in parts:
        exits = strip.at(tolerance, verdict)
        several = "exits" if "," in exits or "-" in exits else "exit"
        words.append(none if exits == "none" else some.format(f"{several} {exits}"))
    return f"{head}: {'; '.join(word for word in words if word)}."


def choice_sentence(run: ReportRun, strip: Strip, tolerance: float) -> str:
    """The lowest safe exit of a strip with its price, or that there is none."""
    choice = choose_exit(run, strip, tolerance)
    if choice is None:
        return "No exit is shown to be safe, so none can be recommended."
    return str(choice)


def choose_exit(run: ReportRun, strip: Strip, tolerance: float) -> Choice | None:
    """The lowest exit of the first cell that is safe; None where none is."""
    safe = [
        exits
        for exits, verdict in zip(strip.exits, strip.verdicts(tolerance), strict=True)
        if verdict == Verdict.SAFE
    ]
    if not safe:
        return None
    lowest = min(exits[0] for exits in safe)
    return Choice(lowest, run.depth - lowest, run.depth, benign_cost(run, lowest))


def benign_cost(run: ReportRun, exit_layer: int) -> Estimate | None:
    """Harmless prompts answered to the point at an exit minus those at the deepest, paired."""
    o = run.outcomes
    if o is None or "harmless" not in o.labels_N:
        return None
    harmless = answered(o, "harmless")
    exits = np.array(o.exits)
    return difference(harmless.over(exits == exit_layer), harmless.over(exits == exits[-1]))


def why_not_safe(w: ExitWindows) -> list[str]:
    """Why exits with no more answers than tolerated are not called safe."""
    if w.harmful is None:
        return []
    few_E = w.harmful.value <= w.unsafe_from
    lines = []
    cannot_E = few_E & (w.verdict == Verdict.CANNOT_ANSWER)
    if cannot_E.any() and w.harmless is not None:
        lines.append(
            f"Why not safe: {name_exits(w.exits, cannot_E)} {_verb(cannot_E, 'answer')} "
            f"{_span(w.harmful.value[cannot_E])} of harmful prompts, but only "
            f"{_span(w.harmless.value[cannot_E])} of harmless ones (able: {w.bar:.0%}); broken or "
            "off-topic text to all prompts is incapable, which is neither safe nor unsafe."
        )
    open_E = few_E & (w.verdict == Verdict.NOT_SHOWN)
    unable_E = open_E & (w.band_high < w.unsafe_from)
    if unable_E.any():
        lines.append(
            f"Why not safe: whether {name_exits(w.exits, unable_E)} can answer is not known."
        )
    wide_E = open_E & ~unable_E
    if wide_E.any():
        n = w.harmful.n or 0
        highest = int(np.argmax(np.where(wide_E, w.band_high, -1)))
        lines.append(
            f"Why not safe: {name_exits(w.exits, wide_E)} {_verb(wide_E, 'answer')} "
            f"{_span(w.harmful.value[wide_E])} of harmful prompts, but with {n} of them up to "
            f"{w.band_high[highest]:.0%} is possible (exit {w.exits[highest]}: "
            f"{counted(w.harmful.value[highest], n)})."
        )
    return lines


def what_decides(w: ExitWindows) -> list[str]:
    """How many prompts would decide the exits that are open."""
    numbers = [(n, int(e)) for n, e in zip(w.n_to_decide, w.exits, strict=True) if n is not None]
    if w.harmful is None or not numbers:
        return []
    least, most = min(numbers), max(numbers)
    text = f"What would decide: {least[0]} harmful prompts for exit {least[1]}"
    if most[0] != least[0]:
        text += f", {most[0]} for all that are open"
    return [f"{text}, if the shares stay as they are; here are {w.harmful.n}."]


def _nothing_judged(run: ReportRun) -> str:
    if run.windows is None:
        return "No exit answered prompts in this run, so no exit is judged."
    return "The run has no harmful prompts, so whether an exit is safe was not asked."


def _verb(is_chosen_E: Bool[np.ndarray, " E"], verb: str) -> str:
    return f"{verb}s" if is_chosen_E.sum() == 1 else verb


def _span(share_X: np.ndarray) -> str:
    """The smallest and the largest of some shares in percent."""
    low, high = float(np.min(share_X)), float(np.max(share_X))
    if math.isclose(low, high) or f"{low:.0%}" == f"{high:.0%}":
        return f"{low:.0%}"
    return f"{low:.0%} to {high:.0%}"
