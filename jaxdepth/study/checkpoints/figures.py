"""Figures of two checkpoints side by side, each drawn from its tables alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.checkpoints.paired import estimate, layers_of, read_paired
from jaxdepth.study.checkpoints.summary import main_position
from jaxdepth.study.checkpoints.tables import (
    AGAINST,
    AUROC,
    BASE,
    CONTROL,
    DANGEROUS,
    DANGEROUS_MINUS_CONTROL,
    NEIGHBOURING_MINUS_GENERAL,
    RIGHT,
)
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.figures import band, new_figure, save_all

_COLOURS = ("#b5312b", "#1f6fa8", "#6f9e4c", "#6b4fa0")
_STYLES = {BASE: "s:", AGAINST: "o-"}


def draw_against(out: str | Path) -> dict[Path, str]:
    """Draw AUROC in both domains and its difference, and knowledge where it was measured.

    Returns:
        The PNG files that were written, with their captions; an SVG lies beside each.
    """
    rows = read_paired(out)
    measures, drawn = set(rows["measure"]), {}
    if AUROC in measures:
        drawn["against"] = _probes(rows), "AUROC of probes in each domain, in both checkpoints"
    if RIGHT in measures:
        drawn["facts"] = _knowledge(rows), "knowledge at every exit, in both checkpoints"
    return save_all(drawn, Path(out) / "figures")


def draw_hedging(compared: Compared, out: str | Path) -> dict[Path, str]:
    """Draw the share of partial answers by exit, for both checkpoints and each group of prompts.

    Returns:
        As `draw_against`.
    """
    groups = compared.groups
    figure = new_figure(len(groups))
    exits = np.array(compared.exits)
    for axes, group in zip(figure.axes, groups, strict=True):
        for colour, model in zip(_COLOURS, compared.models, strict=False):
            shares = compared.shares(model, group, Outcome.PARTIAL)
            band(axes, exits, shares, colour, model, _STYLES[model])
        axes.set_ylabel(f"share hedged (n={compared.count(group)})")
        axes.set_title(group, fontsize="medium")
        axes.set_ylim(-0.02, 1.02)
    figure.set_size_inches(7.2, 1.4 + 2.0 * len(groups))
    figure.axes[0].legend(frameon=False)
    drawn = {"hedging": (figure, "share of partial answers by exit")}
    return save_all(drawn, Path(out) / "figures")


def _probes(rows: pd.DataFrame):
    position = main_position(rows)
    figure = new_figure(2)
    top, bottom = figure.axes
    _both_sides(top, rows, AUROC, (DANGEROUS, CONTROL), position)
    top.set_ylabel(f"AUROC at {position}")
    top.set_title("AUROC of probes in two domains, in both checkpoints (95% bands)")
    domains = (DANGEROUS, CONTROL, DANGEROUS_MINUS_CONTROL)
    for colour, domain in zip(_COLOURS, domains, strict=False):
        curve = layers_of(rows, AUROC, domain, position)
        name = domain.replace(" - ", " minus ")
        band(bottom, curve.index.to_numpy(), estimate(curve), colour, name, "o-")
    bottom.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    bottom.set_ylabel("AUROC, against - base")
    bottom.set_xlabel("layer (0 is the embedding)")
    for axes in figure.axes:
        axes.legend(frameon=False, fontsize=7, ncols=2)
    return figure


def _knowledge(rows: pd.DataFrame):
    domains = rows.loc[rows["measure"] == RIGHT, "domain"].unique().tolist()
    domains = [domain for domain in domains if domain != NEIGHBOURING_MINUS_GENERAL]
    figure = new_figure(len(domains))
    for axes, domain in zip(figure.axes, domains, strict=True):
        _both_sides(axes, rows, RIGHT, (domain,))
        axes.set_ylabel("share of questions whose\nright answer ranks first")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False, fontsize=7)
    figure.axes[0].set_title("Knowledge at every exit, in both checkpoints (95% bands)")
    return figure


def _both_sides(
    axes, rows: pd.DataFrame, measure: str, domains: Sequence[str], position: str | None = None
) -> None:
    pairs = [(domain, side) for domain in domains for side in _STYLES]
    for colour, (domain, side) in zip(_COLOURS, pairs, strict=False):
        curve = layers_of(rows, measure, domain, position)
        name = f"{domain}, {side} (n={curve['n'].iloc[0]})"
        band(axes, curve.index.to_numpy(), estimate(curve, side), colour, name, _STYLES[side])
