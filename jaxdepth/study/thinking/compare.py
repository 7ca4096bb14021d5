"""Compare arms that were run: tables, a figure, and findings."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from jaxdepth.study.atomic_files import parquet, write_once
from jaxdepth.study.thinking.figures import draw_arms
from jaxdepth.study.thinking.reading import read_arms
from jaxdepth.study.thinking.rows import contrast_rows, metric_rows
from jaxdepth.study.thinking.run import StudyRuns, UnitRun
from jaxdepth.study.thinking.summary import findings
from jaxdepth.study.thinking.tables import ARM_TABLE, CONTRASTS, METRICS
from jaxdepth.study.thinking.wanted import expectations

FINDINGS = "findings.txt"


def compare_arms(
    runs: StudyRuns, out: Path, seed: int, command: Callable[[UnitRun], str]
) -> tuple[list[str], dict[Path, str]]:
    """Write arms, arm_metrics, arm_contrasts, the figure and findings.txt.

    Args:
        runs: from `run_arms`.
        out: the folder of the study.
        seed: of the resamples.
        command: the command that runs a unit that was not run.

    Returns:
        The findings, and the figure with its caption.

    Raises:
        InputError: as `read_arms` does.
    """
    c = read_arms(runs, seed)
    arms = [
        {
            "arm": run.unit.arm,
            "seed": run.unit.seed,
            "is_run": run.path is not None,
            "adapter": run.adapter,
            "command": None if run.path else command(run),
        }
        for run in runs.units
    ]
    frames: dict[str, pd.DataFrame] = {}
    for table, rows in (
        (ARM_TABLE, arms),
        (METRICS, list(metric_rows(c))),
        (CONTRASTS, list(contrast_rows(c))),
    ):
        content = table.from_rows(rows)
        write_once(out / f"{table.name}.parquet", parquet(content))
        frames[table.name] = content.to_pandas()
    metrics, contrasts = frames[METRICS.name], frames[CONTRASTS.name]
    lines = [*findings(c, runs, metrics, contrasts, command), *expectations(c)]
    text = "\n".join(lines) + "\n"
    write_once(out / FINDINGS, lambda path: path.write_text(text, encoding="utf-8"))
    return lines, draw_arms(metrics, contrasts, out / "figures")
