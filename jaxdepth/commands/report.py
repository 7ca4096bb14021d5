"""`jaxdepth report`: what runs show, as one page."""

from jaxdepth.study.report.run import write_report
from jaxdepth.study.report.settings import Report


def run(settings: Report) -> int:
    out = write_report(settings)
    size = out.stat().st_size / 1e6
    how = ". Open it in a browser; it needs no network" if settings.format == "html" else ""
    print(f"{out}: {size:.1f} MB{how}")
    return 0
