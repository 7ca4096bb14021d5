"""`jaxdepth judge`: other judges of the answers that a run has kept."""

from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.judging.run import judge_run
from jaxdepth.study.judging.settings import Rejudge
from jaxdepth.study.judging.summary import print_judges


def run(settings: Rejudge) -> int:
    print_judges(judge_run(settings, progress_bar).path)
    return 0
