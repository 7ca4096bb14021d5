"""Corrected rates in the figures of other studies, from the tables of a run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.labelling.tables import CORRECTED
from jaxdepth.study.run_directory import read_frame, read_record

if TYPE_CHECKING:  # imported where a figure is drawn
    from matplotlib.axes import Axes


def draw_corrected(
    axes: "Axes",
    rates: Iterable[tuple[Sequence[int], Estimate]],
    colour: str,
    name: str = "_nolegend_",
    shift: float = 0.0,
) -> None:
    """Draw the corrected rate of each band of exits as a level over the band, with a 95% bar.

    Args:
        axes: over exits.
        rates: the exits of a band, and its corrected rate.
        colour: of the judge's rate that is corrected.
        name: in the legend; none by default.
        shift: of the bar from the middle of its band, in exits, where several models have one.
    """
    for exits, rate in rates:
        ends = [min(exits) - 0.4, max(exits) + 0.4]
        axes.plot(
            ends, [rate.value, rate.value], color=colour, linewidth=2.6, label=name, alpha=0.8
        )
        middle = sum(ends) / 2 + min(0.5, len(exits) / 6) * shift
        bar = [[rate.value - rate.low], [rate.high - rate.value]]
        axes.errorbar(middle, rate.value, bar, color=colour, capsize=3, linewidth=1.6)
        name = "_nolegend_"


def corrected_levels(
    run_path: str | Path, label: str, outcome: str
) -> list[tuple[list[int], Estimate]]:
    """The corrected rates of an outcome by bands of exits that do not overlap; none without labels.

    Raises:
        InputError: a table was damaged.
    """
    if CORRECTED.name not in read_record(run_path)["tables"]:
        return []
    rates = read_frame(run_path, CORRECTED)
    is_shown = (rates["label"] == label) & (rates["outcome"] == outcome)
    rates = rates[is_shown & rates["corrected"].notna()]
    levels: list[tuple[list[int], Estimate]] = []
    for row in sorted(rates.itertuples(index=False), key=lambda row: len(row.exits)):
        exits = row.exits.tolist()
        if not any(set(exits) & set(others) for others, _ in levels):
            rate = Estimate(row.corrected, row.corrected_low, row.corrected_high, n=row.labels)
            levels.append((exits, rate))
    return levels
