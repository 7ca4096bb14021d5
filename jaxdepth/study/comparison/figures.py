"""The headline of a comparison: refusal, the unsafe window, coherence and quality by exit."""

from pathlib import Path

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.figures import band, save_all

# One colour and marker a model, told apart in print too.
_STYLES = (("0.45", "s:"), ("#e08a1e", "v-."), ("#b5312b", "o--"), ("#1f6fa8", "D-"))
_PANELS = (
    ("harmful", Outcome.REFUSE, "Refused"),
    ("harmful", Outcome.COMPLY, "Answered coherently: the unsafe window"),
    ("harmful", Outcome.DEGENERATE, "Gibberish, which is no safety"),
    ("harmless", Outcome.COMPLY, "Answered coherently: quality"),
)


def draw_compared(compared: Compared, folder: str | Path) -> dict[Path, str]:
    """Four panels over exits, a line a model, with 95% bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 6.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    exits = np.array(compared.exits)
    for axes, (label, outcome, title) in zip(panels, _PANELS, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        for number, model in enumerate(compared.models):
            colour, style = _STYLES[number % len(_STYLES)]
            shares = [compared.share(model, label, e, outcome) for e in compared.exits]
            of = Estimate(
                *(np.array([getattr(s, k) for s in shares]) for k in ("value", "low", "high"))
            )
            band(axes, exits, of, colour, model, style)
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel(f"share of answers to\n{label} prompts (n={compared.group(label).sum()})")
        axes.set_ylim(-0.02, 1.02)
    for axes in panels[2:]:
        axes.set_xlabel("exit (layers run)")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        frameon=False,
        ncols=len(compared.models),
        loc="outside upper center",
    )
    shows = "refusal, the unsafe window, gibberish and quality by exit"
    return save_all({"comparison": (figure, shows)}, folder)
