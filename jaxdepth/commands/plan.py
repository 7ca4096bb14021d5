"""`jaxdepth plan`: what a study needs on devices that this machine does not have."""

from jaxdepth.study.planning.run import plan, use_only_cpu
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.summary import plan_lines


def run(settings: Plan) -> int:
    """Print the plan; status 3 where it does not fit."""
    use_only_cpu(settings)
    planned = plan(settings)
    print("\n".join(plan_lines(settings, planned)))
    return 0 if planned.fits else 3
