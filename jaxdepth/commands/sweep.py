"""`jaxdepth sweep`: every prompt at every exit, or at the exits that a policy chooses."""

from collections.abc import Sequence

from jaxdepth.commands.printing import print_places
from jaxdepth.depth.lanes import describe, plan_segments
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.policies.choice import write_policies
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rules import check_static
from jaxdepth.study.policies.run import sweep_policies
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.policies.summary import print_policies
from jaxdepth.study.prefills.figures import draw_prefills
from jaxdepth.study.prefills.run import sweep_prefills
from jaxdepth.study.prefills.settings import check_no_prefills, parse_lengths
from jaxdepth.study.prefills.summary import print_prefills
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.figures import draw_sweep
from jaxdepth.study.sweep.rates import write_rates
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.sweep.summary import print_curves, print_outcomes


def run(settings: PolicySweep) -> int:
    if settings.policies.policy:
        check_no_prefills(settings.prefills)
        return run_policies(settings)
    check_static(settings.policies)
    if settings.prefills.prefill_tokens is not None:
        return run_prefills(settings.sweep, parse_lengths(settings.prefills.prefill_tokens))
    return run_sweep(settings.sweep)


@one_at_a_time(lambda settings: settings.output.out)
def run_prefills(settings: Sweep, lengths: Sequence[int]) -> int:
    """Run a sweep for each prefill length, and print the map of exits and lengths."""
    run = sweep_prefills(settings, lengths, progress_bar)
    print_prefills(run.path)
    print_places(run.path, draw_prefills(run.path))
    return 0


@one_at_a_time(lambda settings: settings.output.out)
def run_sweep(settings: Sweep) -> int:
    """Run a sweep of static exits, and print its tables and figures."""
    run = sweep(settings, progress_bar)
    if settings.answers.max_new_tokens:
        exits = run.record["settings"]["exits"]
        print(f"Staircase: {describe(plan_segments(exits), exits)}\n")
    curves = depth_curves(run.path, settings.output.seed)
    write_rates(run, curves, settings.windows)
    print_curves(curves)
    if run.finished("generations"):
        print_outcomes(run.path)
    print_places(run.path, draw_sweep(run.path, curves))
    return 0


@one_at_a_time(lambda settings: settings.sweep.output.out)
def run_policies(settings: PolicySweep) -> int:
    """Run a sweep of exit policies, and print its tables and figures."""
    run = sweep_policies(settings, progress_bar)
    write_policies(run, settings.sweep.output.seed)
    print_policies(run.path)
    print_places(run.path, draw_policies(run.path))
    return 0
