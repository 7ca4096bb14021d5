"""Which charts some runs have."""

from collections.abc import Sequence

from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.report.charts.base import Chart
from jaxdepth.study.report.charts.decided import decided_charts
from jaxdepth.study.report.charts.exits import exit_charts
from jaxdepth.study.report.charts.frontier import frontier_charts
from jaxdepth.study.report.charts.policies import policy_charts
from jaxdepth.study.report.charts.probed import probed_charts
from jaxdepth.study.report.reading import DECIDE, POLICY, PROBE, SWEEP, ReportRun
from jaxdepth.study.verdicts.tables import SCORES


def charts_of(runs: Sequence[ReportRun], compared: Compared | None = None) -> list[Chart]:
    """All charts of some runs, those of one kind overlaid.

    Args:
        runs: the runs.
        compared: those of them that are sweeps of the same prompts and exits.
    """
    return [
        *exit_charts([run for run in runs if run.command in (SWEEP, DECIDE)]),
        *frontier_charts(compared),
        *decided_charts([run for run in runs if run.has(SCORES.name)]),
        *probed_charts([run for run in runs if run.command == PROBE]),
        *policy_charts([run for run in runs if run.command == POLICY]),
    ]
