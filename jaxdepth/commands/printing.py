"""Output that commands and experiments share."""

from collections.abc import Mapping
from pathlib import Path


def print_places(run_path: str | Path, figures: Mapping[Path, str]) -> None:
    """Print where the tables and figures of a run are, and what each figure shows."""
    drawn = " Figures drawn from them (also as .svg):" if figures else ""
    print(f"\nTables are in {run_path}.{drawn}")
    for path, caption in figures.items():
        print(f"  {path}\n    {caption}")
