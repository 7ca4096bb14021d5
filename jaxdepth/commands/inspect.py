"""`jaxdepth inspect`: what lies at a path, and whether it is whole."""

from jaxdepth.study.inspection.inspect import print_seen
from jaxdepth.weights.settings import Inspect


def run(settings: Inspect) -> int:
    print_seen(settings.path)
    return 0
