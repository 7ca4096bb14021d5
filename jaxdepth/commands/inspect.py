"""`jaxdepth inspect`: what lies at a path, and whether it is whole."""

from jaxdepth.study.inspection.inspect import print_description
from jaxdepth.weights.settings import Inspect


def run(settings: Inspect) -> int:
    print_description(settings.path)
    return 0
