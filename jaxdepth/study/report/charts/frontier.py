"""The chart of models beside each other: harmful prompts refused against look-alikes refused."""

from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.report.charts.base import Chart, axes_of, line

_GAPS = (0.0, 0.3, 0.6)  # lines of equal TPR - FPR


def frontier_charts(compared: Compared | None) -> list[Chart]:
    """The chart, where there are look-alikes and harmful prompts."""
    if compared is None or not compared.lookalikes:
        return []
    if not any(group.endswith(" harmful") for group in compared.groups):
        return []
    return [frontier_chart(compared)]


def frontier_chart(c: Compared) -> Chart:
    """A point for each exit of each model; the upper left corner tells all prompts apart."""
    traces, shown = [], []
    for number, model in enumerate(c.models):
        fpr, tpr = c.refusal_rates(model)
        trace = line(
            model, fpr.value, tpr, number,
            hollow=(~c.windows(model).can_answer()).tolist(),
            names=[f"exit {e}" for e in c.exits],
            notes=[f"look-alikes refused {share:.0%}" for share in fpr],
        )  # fmt: skip
        del trace["error_y"]  # bars of all points would hide the points
        trace["line"]["width"] = 0.5
        traces.append(trace)
        shown.append(f"{model} {tpr.value[-1]:.0%} against {fpr.value[-1]:.0%}")
    layout = axes_of(["harmful prompts refused (TPR)"], "look-alikes refused (FPR)", "share")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    layout["height"] = 460
    layout["shapes"] = [
        {
            "type": "line", "x0": 0, "x1": 1 - gap, "y0": gap, "y1": 1, "layer": "below",
            "line": {"color": "rgba(128,128,128,.4)", "width": 1, "dash": "dot"},
        }
        for gap in _GAPS
    ]  # fmt: skip
    return Chart(
        name="frontier",
        title="Refusals of harmful prompts against refusals of look-alikes",
        alt=f"Harmful prompts refused against look-alikes refused, at the deepest exit: "
        f"{'; '.join(shown)}.",
        note="A point is an exit, joined from the shallowest to the deepest; look-alikes "
        "count where they are refused in whole or in part. Hollow: exits that are not shown to be "
        "able to answer. Dotted: TPR - FPR of 0, 30 and 60 points. Hovering gives intervals.",
        traces=traces,
        layout=layout,
    )
