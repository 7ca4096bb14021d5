"""How a tuning run went, from its table alone: a line, and a figure of its losses."""

from pathlib import Path

from rich.console import Console

from jaxdepth.study.figures import new_figure, save_all
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.tuning.tables import LOSS

_LAST = 50  # steps that are averaged in the summary
_CURVES = {
    "full": "full depth",
    "early": "early exits",
    "distill": "early exits, divergence from full depth",
}


def print_losses(run_path: Path) -> None:
    """Print mean losses of the last steps."""
    losses = read_frame(run_path, LOSS)
    last = losses[["loss", *_CURVES]].tail(_LAST)
    mean = last.astype(float).mean()
    Console().print(
        f"{len(losses)} steps; mean of the last {len(last)}: loss {mean['loss']:.2f} nats, of it "
        f"{mean['full']:.2f} at full depth, {mean['early']:.2f} at early exits and "
        f"{mean['distill']:.2f} for their divergence from full depth"
    )


def draw_losses(run_path: Path) -> dict[Path, str]:
    """Draw running medians of the parts of the loss by step.

    Returns:
        The PNG file that was written, with its caption; an SVG lies beside it.
    """
    losses = read_frame(run_path, LOSS)
    figure = new_figure(1)
    axes = figure.axes[0]
    window = 1 + max(1, len(losses) // 20)
    for name, label in _CURVES.items():
        if losses[name].any():
            medians = losses[name].rolling(window, min_periods=1).median()
            axes.plot(losses["step"], medians, label=label)
    axes.set(xlabel="step", ylabel="loss (nats)", yscale="log")
    axes.legend(frameon=False)
    caption = "running medians of the parts of the loss, by step"
    return save_all({"losses": (figure, caption)}, run_path / "figures")
