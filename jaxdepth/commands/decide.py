"""`jaxdepth decide`: every exit thinks, decides with a verdict token, and answers."""

from jaxdepth.commands.printing import print_places
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.verdicts.figures import draw_verdicts
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.scores import write_verdicts
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.verdicts.summary import print_verdicts


@one_at_a_time(lambda settings: settings.output.out)
def run(settings: Decide) -> int:
    run = run_decide(settings, progress_bar)
    write_verdicts(run, settings.output.seed)
    words = ", ".join(map(repr, run.record["facts"]["markers"]["words"]))
    print(f"Verdict words of this model: {words}\n")
    print_verdicts(run)
    print_places(run.path, draw_verdicts(run.path))
    return 0
