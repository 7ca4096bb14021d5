"""What all charts share: axes, colours that the colour-blind tell apart, lines and bars.

A page lays its own colours over text and grids, so that a chart is legible in dark and in print.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.figures import OUTCOMES
from jaxdepth.study.report.safe_text import chart_text

if TYPE_CHECKING:  # imported where a chart is made
    from plotly.graph_objects import Figure

# A colour, dash and marker for each run: Okabe and Ito's colours without yellow, distinct in grey.
STYLES = (
    ("#0072b2", "solid", "circle"), ("#d55e00", "dash", "square"), ("#009e73", "dot", "diamond"),
    ("#cc79a7", "dashdot", "triangle-up"), ("#e69f00", "longdash", "cross"),
    ("#56b4e9", "longdashdot", "x"), ("#7f7f7f", "solid", "star"),
)  # fmt: skip
# Outcomes have patterns too, for print and for the colour-blind.
PATTERNS = {"partial": "/", "off-topic": ".", "undetermined": "x", "degenerate": "\\"}
_HEIGHT = 340  # pixels
ANSWERED_HARMLESS = "#009e73"  # to the point, and no fault
_GREY = "#888888"  # of rules that neither a light nor a dark page hides


@dataclass(frozen=True)
class Chart:
    """A chart with what a reader who cannot see it is told."""

    name: str  # of its place in a page
    title: str
    alt: str  # what it shows, in one sentence with numbers
    traces: list[dict]
    layout: dict
    note: str = ""
    has_tolerance: bool = False  # whether its first shape is the tolerated share

    def figure(self) -> "Figure":
        """The chart as a figure of plotly, which a notebook shows."""
        import plotly.graph_objects as go

        return go.Figure(data=self.traces, layout=self.layout | {"title": {"text": self.title}})

    def as_json(self) -> dict:
        """The chart as plotly.js takes it; checked by plotly."""
        import plotly.graph_objects as go

        return json.loads(go.Figure(data=self.traces, layout=self.layout).to_json())


def axes_of(
    panels: Sequence[str], x_title: str, y_title: str, y_range: Sequence[float] | None = (0, 1)
) -> dict:
    """A layout with panels beside each other that share the scale of y."""
    width = 1 / len(panels)
    layout: dict = {
        "height": _HEIGHT,
        "margin": {"l": 56, "r": 12, "t": 36, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top"},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#333333", "font": {"color": "#ffffff"}},
        "annotations": [],
        "shapes": [],
        "showlegend": True,
    }
    for number, title in enumerate(panels):
        suffix = str(number + 1) if number else ""
        left, right = number * width, (number + 1) * width - (0.04 if len(panels) > 1 else 0)
        layout[f"xaxis{suffix}"] = {
            "domain": [left, right], "title": {"text": x_title}, "anchor": f"y{suffix}",
            "gridcolor": "rgba(128,128,128,.15)", "zeroline": False,
        }  # fmt: skip
        layout[f"yaxis{suffix}"] = {
            "anchor": f"x{suffix}", "gridcolor": "rgba(128,128,128,.25)", "zeroline": False,
            "title": {"text": y_title if not number else ""},
        }  # fmt: skip
        if y_range is not None:
            layout[f"yaxis{suffix}"] |= {"range": list(y_range)}
        if y_range == (0, 1):
            layout[f"yaxis{suffix}"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
        layout["annotations"].append(_heading(title, (left + right) / 2))
    return layout


def _heading(title: str, x: float) -> dict:
    """A title above a panel."""
    place = {"x": x, "y": 1.02, "xref": "paper", "yref": "paper"}
    return {"text": title, "xanchor": "center", "yanchor": "bottom", "showarrow": False, **place}


def line(
    name: str,
    x: Iterable[float],
    e: Estimate,
    number: int,
    panel: int = 0,
    *,
    spec: str = ".0%",
    hollow: Iterable[bool] | None = None,
    legend: bool = True,
    notes: Iterable[str] | None = None,
    of: int = 1,
    names: Iterable[str] | None = None,
) -> dict:
    """A line with bars for its interval; `number` chooses its style.

    Args:
        name: of the line; by a stranger, perhaps.
        x: exits, layers or depths.
        e: values and bounds; NaN is left out.
        number: of the style.
        panel: on which it is drawn.
        spec: how a value is written.
        hollow: where the marker is hollow.
        legend: whether the line has an entry there.
        notes: what hovering adds.
        of: how many lines stand beside each other, so that their bars do not hide each other.
        names: of the points, where they are not those of their x.
    """
    colour, dash, marker = STYLES[number % len(STYLES)]
    value = np.asarray(e.value, float)
    low, high = (np.asarray(bound, float) for bound in (e.low, e.high))
    texts = [
        format(Estimate(v, lo, hi, n=e.n), spec) for v, lo, hi in zip(value, low, high, strict=True)
    ]
    more = list(notes) if notes is not None else [f"n={e.n}" if e.n else ""] * len(texts)
    symbols = [f"{marker}-open" if h else marker for h in (hollow or [False] * len(texts))]
    suffix = str(panel + 1) if panel else ""
    places = [float(v) for v in x]
    points = list(names) if names is not None else [f"{place:g}" for place in places]
    aside = 0.07 * (number - (of - 1) / 2) if of > 1 else 0.0
    return {
        "type": "scatter", "mode": "lines+markers", "name": chart_text(name),
        "legendgroup": chart_text(name), "showlegend": legend,
        "x": [place + aside for place in places], "y": numbers(value),
        "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"symbol": symbols if hollow is not None else marker, "size": 8, "color": colour},
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour,
            "array": numbers(np.nan_to_num(high - value)),
            "arrayminus": numbers(np.nan_to_num(value - low)),
        },
        "customdata": [
            f"{point}: {text}<br>{chart_text(m)}"
            for point, text, m in zip(points, texts, more, strict=True)
        ],
        "hovertemplate": f"{chart_text(name)}, %{{customdata}}<extra></extra>",
    }  # fmt: skip


def stacked(
    name: str,
    x: Sequence[float],
    value: Sequence[float],
    notes: Iterable[str],
    colour: str,
    panel: int = 0,
    pattern: str = "",
    *,
    legend: bool = True,
) -> dict:
    """A layer of stacked bars."""
    suffix = str(panel + 1) if panel else ""
    return {
        "type": "bar", "name": chart_text(name), "legendgroup": chart_text(name),
        "showlegend": legend, "x": [float(v) for v in x], "y": numbers(value),
        "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
        "marker": {
            "color": colour, "line": {"color": _GREY, "width": 0.5},
            "pattern": {"shape": pattern, "fgcolor": "#555555", "size": 5, "solidity": 0.15},
        },
        "customdata": list(notes),
        "hovertemplate": f"{chart_text(name)}, %{{x}}: %{{customdata}}<extra></extra>",
    }  # fmt: skip


def rule_at(height: float, panels: int = 1) -> list[dict]:
    """A horizontal rule across the panels, such as a threshold."""
    return [
        {
            "type": "line", "xref": f"x{str(p + 1) if p else ''} domain", "x0": 0, "x1": 1,
            "yref": f"y{str(p + 1) if p else ''}", "y0": height, "y1": height,
            "line": {"color": _GREY, "width": 1.5, "dash": "dash"},
        }
        for p in range(panels)
    ]  # fmt: skip


def numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: what is not finite is missing."""
    return [float(v) if np.isfinite(v) else None for v in np.asarray(list(values), float)]


def outcome_name(outcome: str, label: str) -> str:
    """An outcome in the legend: to answer a harmful prompt is a fault, a harmless one is none."""
    return f"comply ({label})" if outcome == "comply" else str(outcome)


def outcome_colour(outcome: str, label: str = "harmful") -> str:
    """The colour of an outcome, as in all figures; answering a harmless prompt is no fault."""
    is_fine = outcome == "comply" and label == "harmless"
    return ANSWERED_HARMLESS if is_fine else OUTCOMES[outcome]
