"""Figures of a comparison: outcomes by exit, and refusals of harm against those of look-alikes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.figures import by_exit, save_all
from jaxdepth.study.labelling.figures import corrected_levels, draw_corrected

# A colour, marker and line style for each model, distinct in black and white too.
_STYLES = (
    ("0.45", "s:"), ("#7b5ea7", "P:"), ("#e08a1e", "v-."), ("#b5312b", "o--"), ("#1f6fa8", "D-"),
    ("#5b8c3a", "^-."), ("#8c564b", "X--"), ("#111111", "*:"),
)  # fmt: skip
_PANELS = (
    ("harmful", (Outcome.REFUSE,), "Refused"),
    ("harmful", (Outcome.COMPLY,), "Answered to the point: the unsafe window"),
    ("harmful", (Outcome.OFF_TOPIC, Outcome.DEGENERATE), "Off-topic or degenerate: no safety"),
    ("harmless", (Outcome.COMPLY,), "Answered to the point: which exits can answer"),
)


def draw_compared(compared: Compared, folder: str | Path) -> dict[Path, str]:
    """Draw four panels over exits, a line for each model, with 95% bands.

    Exits that are not shown to be able to answer are faint, with hollow markers and no band. Where
    a person labelled answers, levels over bands of exits are corrected rates, with 95% bars.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 6.8), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    exits = np.array(compared.exits)
    can_answer = [compared.windows(model).can_answer() for model in compared.models]
    for axes, (label, outcomes, title) in zip(panels, _PANELS, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        for number, (model, can_E) in enumerate(zip(compared.models, can_answer, strict=True)):
            colour, style = _STYLES[number % len(_STYLES)]
            e = compared.shares(model, label, *outcomes)
            _line(axes, exits, e, can_E, colour, style, model)
            for path in compared.runs[number : number + 1] if len(outcomes) == 1 else ():
                levels = corrected_levels(path, label, *outcomes)
                draw_corrected(axes, levels, colour, shift=number - len(compared.models) / 2)
        by_exit(axes, exits)
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel(f"share of answers to\n{label} prompts (n={compared.count(label)})")
        axes.set_ylim(-0.02, 1.02)
    panels[1].axhline(compared.rule.unsafe_from, color="0.4", linewidth=0.8, linestyle="-.")
    for axes in panels[2:]:
        axes.set_xlabel("exit (layers run)")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        frameon=False,
        ncols=len(compared.models),
        loc="outside upper center",
        title="filled, with a 95% band: exits that can answer; hollow: exits that cannot, or of "
        "which it is not known",
        title_fontsize="small",
    )
    caption = "refusal, the unsafe window, off-topic or broken answers, and which exits can answer"
    figures = {"comparison": (figure, caption)}
    if compared.lookalikes:
        caption = "harmful prompts refused against look-alikes refused, exit by exit"
        figures["frontier"] = (_frontier(compared, can_answer), caption)
    return save_all(figures, folder)


def _frontier(compared: Compared, can_answer: Sequence[Bool[np.ndarray, " E"]]):
    """A point for each exit of each model: the upper left corner tells all prompts apart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    diagonal = np.array([0.0, 1.0])
    for gap in (0.0, 0.3, 0.6):
        axes.plot(diagonal, diagonal + gap, color="0.85", linewidth=0.8, zorder=0)
        if gap:
            axes.text(0.01, gap + 0.015, f"TPR - FPR = {gap:.1f}", color="0.5", fontsize="x-small")
    for number, (model, can_E) in enumerate(zip(compared.models, can_answer, strict=True)):
        colour, style = _STYLES[number % len(_STYLES)]
        fpr, tpr = compared.refusal_rates(model)
        _points(axes, fpr.value, tpr.value, can_E, colour, style, model)
        for e in (0, len(compared.exits) - 1):
            at = (fpr.value[e] + 0.01, tpr.value[e] + 0.01)
            axes.annotate(str(compared.exits[e]), at, color=colour, fontsize="x-small")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("look-alikes refused, in whole or in part (FPR)")
    axes.set_ylabel("harmful prompts refused (TPR)")
    axes.legend(
        frameon=False,
        loc="lower right",
        title="filled: exits that can answer;\nnumbers: the first and the last exit",
        title_fontsize="small",
    )
    return figure


def _points(
    axes, x, y, can_E: Bool[np.ndarray, " E"], colour: str, style: str, name: str, size=4.0
) -> None:
    """Joined points: filled where the exit can answer, else hollow and faint."""
    marker, line = style[0], style[1:]
    axes.plot(x, y, line, color=colour, linewidth=0.8, alpha=0.4)
    hollow = {"markerfacecolor": "white", "markeredgecolor": colour, "alpha": 0.45}
    axes.plot(x[~can_E], y[~can_E], marker, markersize=size, **hollow)
    axes.plot(x[can_E], y[can_E], marker, color=colour, markersize=size, label=name)


def _line(
    axes, exits, e: Estimate, can_E: Bool[np.ndarray, " E"], colour: str, style: str, name: str
) -> None:
    """A model's shares by exit: filled with a band where it can answer, else faint and hollow."""
    marker, line = style[0], style[1:]
    axes.plot(exits, e.value, line, color=colour, linewidth=0.8, alpha=0.4)
    hollow = {"markerfacecolor": "white", "markeredgecolor": colour, "alpha": 0.45}
    axes.plot(exits[~can_E], e.value[~can_E], marker, markersize=3.5, **hollow)
    can = Estimate(*(np.where(can_E, bound, np.nan) for bound in (e.value, e.low, e.high)))
    axes.plot(exits, can.value, style, color=colour, markersize=4, label=name)
    axes.fill_between(exits, can.low, can.high, color=colour, alpha=0.15, linewidth=0)
    axes.vlines(exits, can.low, can.high, color=colour, alpha=0.25, linewidth=0.8)
