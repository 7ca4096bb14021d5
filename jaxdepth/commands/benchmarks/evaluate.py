"""`jaxdepth evaluate`: tasks of other libraries at every exit."""

from jaxdepth.benchmarks.figures import draw_scores
from jaxdepth.benchmarks.settings import Evaluate, options_of_others
from jaxdepth.benchmarks.summary import print_scores
from jaxdepth.commands.benchmarks.libraries import import_with
from jaxdepth.commands.printing import print_places
from jaxdepth.errors import InputError, listed
from jaxdepth.runtime.lock import one_at_a_time

# library -> the module whose function `run` takes the settings and returns a run directory (`Run`)
# with the table scores; the extra that it needs has the library's name
_MODULES = {
    "inspect": "jaxdepth.benchmarks.inspect.command",
    "lm-eval": "jaxdepth.benchmarks.lm_eval.command",
}


def run(settings: Evaluate) -> int:
    """Hand the settings to the chosen library's module, and print its scores."""
    library = settings.evaluating.with_
    if others := options_of_others(settings):
        raise InputError(f"--{listed(others)}: not an option of --with {library}; leave it out")
    command = f"jaxdepth evaluate --with {library}"
    module = import_with(_MODULES[library], library, command)
    run = one_at_a_time(lambda settings: settings.output.out)(module.run)(settings)
    print_scores(run.path)
    print_places(run.path, draw_scores(run.path))
    return 0
