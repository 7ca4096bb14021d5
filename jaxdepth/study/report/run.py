"""`jaxdepth report`: read finished runs, and write what they show as one file."""

from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.study.atomic_files import write_once
from jaxdepth.study.report.markdown import card_section, markdown_report
from jaxdepth.study.report.page import render
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.report.settings import Report


def write_report(settings: Report) -> Path:
    """Write the report of some runs; return its file.

    Raises:
        InputError: a run is unfinished, damaged, or of another command; or the file cannot be.
    """
    out = settings.out or Path("report.html" if settings.format == "html" else "report.md")
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a file with --out")
    runs = read_runs(settings.runs)
    if settings.format == "html":
        content = render(runs, settings.text)
    else:
        content = (card_section if settings.format == "card" else markdown_report)(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    # The same on all systems, and a lone surrogate, which no file can hold, was escaped before.
    write_once(out, lambda path: path.write_text(content, encoding="utf-8", newline="\n"))
    return out
