"""The figures of two checkpoints side by side, each drawn from its tables alone."""

from pathlib import Path

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.checkpoints.paired import AUROC, RIGHT, read_paired
from jaxdepth.study.checkpoints.run import AGAINST, BASE, CONTROL, DANGEROUS
from jaxdepth.study.checkpoints.summary import BETWEEN, main_position
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.figures import band, new_figure, save_all

_COLOURS = ("#b5312b", "#1f6fa8", "#6f9e4c", "#6b4fa0")
_STYLES = {BASE: "s:", AGAINST: "o-"}


def draw_against(out: str | Path) -> dict[Path, str]:
    """Draws both checkpoints' AUROC in both domains and how they differ; facts where there are.

    Returns:
        The PNG files that were written, each with what it shows; an SVG lies beside each.
    """
    rows = [r for r in read_paired(Path(out)) if r["layer"] is not None]
    probed, facts = ([r for r in rows if r["measure"] == m] for m in (AUROC, RIGHT))
    drawn = {}
    if probed:
        drawn["against"] = _probes(probed), "how sharply both checkpoints tell each domain apart"
    if facts:
        domains = [d for d in dict.fromkeys(r["domain"] for r in facts) if " - " not in d]
        figure = new_figure(len(domains))
        for axes, domain in zip(figure.axes, domains, strict=True):
            _both_sides(axes, facts, (domain,))
            axes.set_ylabel("share of facts whose right\nanswer ranks first")
            axes.set_ylim(-0.02, 1.02)
            axes.legend(frameon=False, fontsize=7)
        figure.axes[0].set_title("What each exit knows, in both checkpoints (95% bands)")
        drawn["facts"] = figure, "the facts that each exit of both checkpoints reads out"
    return save_all(drawn, Path(out) / "figures")


def draw_hedging(compared: Compared, out: str | Path) -> dict[Path, str]:
    """Draws the share of partial answers by exit, for both checkpoints and each group of prompts.

    Returns:
        As `draw_against`.
    """
    groups = sorted(set(compared.groups_N))
    figure = new_figure(len(groups))
    exits = np.array(compared.exits)
    for axes, group in zip(figure.axes, groups, strict=True):
        for colour, model in zip(_COLOURS, compared.models, strict=False):
            shares = compared.shares(model, group, Outcome.PARTIAL)
            band(axes, exits, shares, colour, model, _STYLES[model])
        axes.set_ylabel(f"share hedged (n={compared.group(group).sum()})")
        axes.set_title(group, fontsize="medium")
        axes.set_ylim(-0.02, 1.02)
    figure.set_size_inches(7.2, 1.4 + 2.0 * len(groups))
    figure.axes[0].legend(frameon=False)
    drawn = {"hedging": (figure, "caveats in place of an answer, by exit")}
    return save_all(drawn, Path(out) / "figures")


def _probes(rows: list[dict]):
    position = main_position(rows)
    here = [r for r in rows if r["position"] == position]
    figure = new_figure(2)
    top, bottom = figure.axes
    _both_sides(top, here, (DANGEROUS, CONTROL))
    top.set_ylabel(f"AUROC at {position}")
    top.set_title("Two checkpoints, two domains: how well classes are read off (95% bands)")
    for colour, domain in zip(_COLOURS, (DANGEROUS, CONTROL, BETWEEN), strict=False):
        name = domain if domain != BETWEEN else f"{DANGEROUS} minus {CONTROL}"
        _band(bottom, here, domain, ("difference", "low", "high"), colour, name, "o-")
    bottom.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    bottom.set_ylabel("AUROC, against - base")
    bottom.set_xlabel("layer (0 is the embedding)")
    for axes in figure.axes:
        axes.legend(frameon=False, fontsize=7, ncols=2)
    return figure


def _both_sides(axes, rows: list[dict], domains) -> None:
    curves = [(domain, side) for domain in domains for side in _STYLES]
    for colour, (domain, side) in zip(_COLOURS, curves, strict=False):
        n = next(r["n"] for r in rows if r["domain"] == domain)
        columns = (side, f"{side}_low", f"{side}_high")
        _band(axes, rows, domain, columns, colour, f"{domain}, {side} (n={n})", _STYLES[side])


def _band(axes, rows, domain: str, columns, colour: str, name: str, style: str) -> None:
    mine = sorted((r for r in rows if r["domain"] == domain), key=lambda r: r["layer"])
    layers = np.array([r["layer"] for r in mine])
    estimate = Estimate(*(np.array([r[column] for r in mine]) for column in columns))
    band(axes, layers, estimate, colour, name, style)
