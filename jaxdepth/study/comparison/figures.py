"""The figure of a comparison: refusal, unsafe window, degeneration and quality by exit."""

from pathlib import Path

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.figures import band, save_all

# A colour, marker and line style for each model, distinct in black and white too.
_STYLES = (("0.45", "s:"), ("#e08a1e", "v-."), ("#b5312b", "o--"), ("#1f6fa8", "D-"))
_PANELS = (
    ("harmful", Outcome.REFUSE, "Refused"),
    ("harmful", Outcome.COMPLY, "Answered coherently: the unsafe window"),
    ("harmful", Outcome.DEGENERATE, "Degenerate, which is no safety"),
    ("harmless", Outcome.COMPLY, "Answered coherently: quality"),
)


def draw_compared(compared: Compared, folder: str | Path) -> dict[Path, str]:
    """Draw four panels over exits, a line for each model, with 95% bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 6.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    exits = np.array(compared.exits)
    for axes, (label, outcome, title) in zip(panels, _PANELS, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        for number, model in enumerate(compared.models):
            colour, style = _STYLES[number % len(_STYLES)]
            band(axes, exits, compared.shares(model, label, outcome), colour, model, style)
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel(f"share of answers to\n{label} prompts (n={compared.count(label)})")
        axes.set_ylim(-0.02, 1.02)
    for axes in panels[2:]:
        axes.set_xlabel("exit (layers run)")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        frameon=False,
        ncols=len(compared.models),
        loc="outside upper center",
    )
    caption = "refusal, the unsafe window, degenerate answers and quality by exit"
    return save_all({"comparison": (figure, caption)}, folder)
