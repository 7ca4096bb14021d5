"""`jaxdepth check`: does a run meet a certificate?"""

from jaxdepth.errors import visible
from jaxdepth.study.certificates.check import check
from jaxdepth.study.certificates.settings import Check

CONTRADICTED = 4


def run(settings: Check) -> int:
    meets, line = check(settings)
    print(visible(line))
    return 0 if meets else CONTRADICTED
