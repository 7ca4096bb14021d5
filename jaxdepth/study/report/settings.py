"""Settings of a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Report:
    """Write what runs show as one page: verdicts by exit, charts, and the answers to read."""

    runs: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUNS", help_behavior_hint="(required)")]
    ]
    """Finished runs of `jaxdepth sweep`, `decide` or `probe`, or the folder of a comparison for all
    runs in it. They are overlaid in this order."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write; by default report.html, or report.md for the other formats."""
    format: Literal["html", "md", "card"] = "html"
    """html: one file that opens without a network; md: the verdicts in Markdown, for a pull
    request; card: a section for the model card of a checkpoint on Hugging Face."""
    text: bool = True
    """Put prompts and answers into the page. Answers may be harmful: leave them out (--no-text) of
    a page for strangers."""
