"""How a tuning run went, from its table alone: a line, and a figure of its losses."""

from pathlib import Path

import numpy as np
from rich.console import Console

from jaxdepth.study.figures import new_figure, save_all
from jaxdepth.study.run_directory import read_table

_LAST = 50  # steps that the line's means are of


def print_losses(run_path: Path) -> None:
    """Mean losses of the last steps."""
    table = read_table(run_path, "loss").to_pydict()
    means = {name: np.mean(table[name][-_LAST:]) for name in ("loss", "full", "early", "distill")}
    Console().print(
        f"{len(table['step'])} steps; over the last {min(_LAST, len(table['step']))}: loss "
        f"{means['loss']:.2f} nats, of it at full depth {means['full']:.2f}, at early exits "
        f"{means['early']:.2f} and their divergence from full depth {means['distill']:.2f}"
    )


def draw_losses(run_path: Path) -> dict[Path, str]:
    """The parts of the loss by step, each as a running median."""
    table = read_table(run_path, "loss").to_pydict()
    figure = new_figure(1)
    axes = figure.axes[0]
    steps, window = np.array(table["step"]), max(1, len(table["step"]) // 20)
    for name, label in (
        ("full", "full depth"),
        ("early", "early exits"),
        ("distill", "early exits, divergence from full depth"),
    ):
        values = np.array(table[name])
        if values.any():
            middle = [np.median(values[max(0, i - window) : i + 1]) for i in range(len(values))]
            axes.plot(steps, middle, label=label)
    axes.set(xlabel="step", ylabel="loss (nats)", yscale="log")
    axes.legend(frameon=False)
    shows = "the parts of the loss by step, running medians"
    return save_all({"losses": (figure, shows)}, run_path / "figures")
