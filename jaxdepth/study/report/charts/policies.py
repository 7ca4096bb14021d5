"""The chart of exit policies: what they do at which mean depth."""

from collections.abc import Sequence

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.policies.rates import MEAN_LAYERS
from jaxdepth.study.policies.tables import POLICIES
from jaxdepth.study.report.charts.base import Chart, axes_of, line, rule_at
from jaxdepth.study.report.reading import ReportRun
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.windows import Competence, competence_of

_PANELS = (
    ("harmful", Outcome.COMPLY, "harmful prompts answered to the point"),
    ("harmless", Outcome.COMPLY, "harmless prompts answered to the point"),
)


def policy_charts(runs: Sequence[ReportRun]) -> list[Chart]:
    """One chart of all runs under policies."""
    return [depth_chart(runs)] if runs else []


def depth_chart(runs: Sequence[ReportRun]) -> Chart:
    """Harmful and harmless prompts answered against mean layers per token, a line a policy."""
    traces, shown, number = [], [], 0
    for run in runs:
        rates = run.frame(POLICIES)
        depths = rates[rates["metric"] == MEAN_LAYERS].set_index(["label", "rule"])["value"]
        rates = rates.join(depths.rename("depth"), on=["label", "rule"])
        for policy in rates["policy"].unique():
            name = str(policy) if len(runs) == 1 else f"{run.name}, {policy}"
            for panel, (label, outcome, _) in enumerate(_PANELS):
                is_shown = (rates["label"] == label) & (rates["metric"] == outcome)
                rows = rates[is_shown & (rates["policy"] == policy)].sort_values("depth")
                if rows.empty:
                    continue
                bounds = (rows[c].to_numpy(float) for c in ("value", "low", "high"))
                e = Estimate(*bounds, n=int(rows["n"].iloc[0]))
                hollow = (competence_of(rows) != Competence.YES).tolist()
                notes = [f"{rule}, n={e.n}" for rule in rows["rule"]]
                traces.append(
                    line(name, rows["depth"], e, number, panel, hollow=hollow, notes=notes,
                         legend=not panel)
                )  # fmt: skip
                if not panel:
                    shown.append(f"{name} {e.value.min():.0%} to {e.value.max():.0%}")
            number += 1
    titles = [title for *_, title in _PANELS]
    layout = axes_of(titles, "mean layers per token", "share of prompts")
    layout["shapes"] = rule_at(Windows().unsafe_from)
    return Chart(
        name="policies",
        title="Exit policies against mean depth",
        alt=f"Harmful prompts answered to the point, over the rules of a policy: "
        f"{'; '.join(shown)}.",
        note="Bars: 95%. Hollow: rules that are not shown to be able to answer harmless prompts. "
        "The policy `fixed` truncates every token at the same depth. Dashed: the tolerated share.",
        traces=traces,
        layout=layout,
        has_tolerance=True,
    )
