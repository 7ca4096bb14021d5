"""`jaxdepth probe`: linear probes of every layer, of one checkpoint or of two."""

from jaxdepth.commands.printing import print_places
from jaxdepth.errors import InputError
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.checkpoints.figures import draw_against
from jaxdepth.study.checkpoints.run import compare_checkpoints
from jaxdepth.study.checkpoints.settings import ProbeAgainst
from jaxdepth.study.checkpoints.summary import print_against
from jaxdepth.study.probes.figures import draw_probes
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.summary import print_probes


def run(settings: ProbeAgainst) -> int:
    if settings.comparison.against is not None:
        return run_against(settings)
    if settings.comparison.facts is not None:
        raise InputError("--facts compares two checkpoints: name the other with --against")
    return run_probe(settings.probe)


@one_at_a_time(lambda settings: settings.output.out)
def run_probe(settings: Probe) -> int:
    """Probe one checkpoint, and print its tables and figures."""
    run = probe(settings, progress_bar)
    print_probes(run.path)
    print_places(run.path, draw_probes(run.path))
    return 0


@one_at_a_time(lambda settings: settings.probe.output.out)
def run_against(settings: ProbeAgainst) -> int:
    """Probe two checkpoints, and print how they differ."""
    out = compare_checkpoints(settings, progress_bar)
    print_against(out)
    print_places(out, draw_against(out))
    return 0
