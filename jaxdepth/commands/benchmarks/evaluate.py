"""`jaxdepth evaluate`: tasks of other libraries at every exit."""

import importlib

from jaxdepth.benchmarks.figures import draw_scores
from jaxdepth.benchmarks.settings import Evaluate, options_of_others
from jaxdepth.benchmarks.summary import print_scores
from jaxdepth.commands.printing import print_places
from jaxdepth.errors import InputError, listed
from jaxdepth.runtime.lock import one_at_a_time

# library -> the module whose function `run` takes the settings and returns a run directory (`Run`)
# with the table scores, and the extra that it needs
_LIBRARIES = {
    "inspect": ("jaxdepth.benchmarks.inspect.command", "inspect"),
    "lm-eval": ("jaxdepth.benchmarks.lm_eval.command", "lm-eval"),
}


def run(settings: Evaluate) -> int:
    """Hand the settings to the chosen library's module; errors name the extra that is missing."""
    library = settings.evaluating.with_
    if others := options_of_others(settings):
        raise InputError(f"--{listed(others)}: not an option of --with {library}; leave it out")
    module, extra = _LIBRARIES[library]
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("jaxdepth"):
            raise
        raise InputError(
            f"jaxdepth evaluate --with {library} needs {error.name}: pip install "
            f"'jaxdepth[{extra}]'"
        ) from None
    run = one_at_a_time(lambda settings: settings.output.out)(command.run)(settings)
    print_scores(run.path)
    print_places(run.path, draw_scores(run.path))
    return 0
