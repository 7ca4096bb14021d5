"""`jaxdepth inspect`: describe what is at a path, and check it for damage."""

from jaxdepth.study.inspection.inspect import print_description
from jaxdepth.weights.settings import Inspect


def run(settings: Inspect) -> int:
    print_description(settings.path)
    return 0
