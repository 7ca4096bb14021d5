"""`jaxdepth sweep --prefill-tokens`: exit depth and prefill length, one sweep for each length.

run.json, prompts.parquet   the prompts, with their whole prefills
prefill_map.parquet         every measure by exit and prefill length
prefill-N/                  the sweep with the first N tokens: a run of its own

The model is loaded once. Prompts of all lengths are padded alike, so that one program serves them.
Source of the axis: Any-Depth Alignment (Zhang et al. 2025, arXiv:2510.18081).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.refusal.outcome import Judge
from jaxdepth.runtime.lock import hold_folder, one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.chosen_judge import choose_judge
from jaxdepth.study.prefills.tables import PREFILL_MAP
from jaxdepth.study.prompting.written import cut_prefill
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.subject import Subject, open_subject
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.rates import write_rates
from jaxdepth.study.sweep.run import check_sweep, sweep_subject
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.sweep.tables import CURVE, WINDOWS

COMMAND = "sweep --prefill-tokens"


@one_at_a_time(lambda settings: settings.output.out)
def sweep_prefills(
    settings: Sweep,
    lengths: Sequence[int],
    bar: ProgressBar = silent,
    judge: Judge | None = None,
) -> Run:
    """Sweep every exit after the first tokens of each prompt's prefill; resume unfinished work.

    Args:
        settings: see `jaxdepth sweep --help`.
        lengths: in tokens, ascending; from `parse_lengths`.
        bar: shows progress.
        judge: judges the outcomes of answers in place of that of the settings.

    Raises:
        InputError: as `sweep`; or a prompt has no prefill, or one of fewer tokens.
    """
    check_sweep(settings)
    chosen = choose_judge(settings.texts, judge, settings.output.out)
    whole = open_subject(settings, settings.decoding.exits)
    parts = {n: with_prefill(whole, settings, n, max(lengths)) for n in lengths}
    openers = whole.openers(settings.first_token.openers)
    resolved = whole.resolved(
        command=COMMAND, prefill_tokens=list(lengths), openers=openers, **chosen.resolved
    )
    run = whole.open_run(resolved)
    for length, part in parts.items():

        def named(what: str, unit: str, length: int = length):
            return bar(f"prefill of {length}: {what}", unit)

        with hold_folder(folder_of(run.path, length)):
            done = sweep_subject(part, chosen.anew(), named, prefill_tokens=length, openers=openers)
            curves = depth_curves(done.path, settings.output.seed)
            write_rates(done, curves, settings.windows)
    content = pd.concat([map_rows(run.path, length) for length in lengths])
    run.write_table(PREFILL_MAP.name, PREFILL_MAP.from_frame(content))
    return run


def folder_of(run_path: str | Path, length: int) -> Path:
    """The run of one prefill length."""
    return Path(run_path) / f"prefill-{length}"


def with_prefill(whole: Subject, settings: Sweep, length: int, longest: int) -> Subject:
    """The subject whose prompts have the first tokens of their prefills, in a run of its own.

    Args:
        whole: the subject with whole prefills.
        settings: its settings.
        length: of the part, in tokens.
        longest: of all parts; prompts are padded to it.

    Raises:
        InputError: a prompt has no prefill, or one of fewer tokens than the longest part.
    """
    cuts = [
        cut_prefill(whole.loaded.conversations, prompt, written, length, longest)
        for prompt, written in zip(whole.prompts, whole.written, strict=True)
    ]
    prompts, written = (list(column) for column in zip(*cuts, strict=True))
    output = replace(settings.output, out=folder_of(settings.output.out, length))
    own, room = replace(settings, output=output), longest - length
    return replace(whole, settings=own, prompts=prompts, written=written, room=room)


def map_rows(run_path: str | Path, length: int) -> pd.DataFrame:
    """The rows of the map for one prefill length, from the tables of its sweep."""
    path = folder_of(run_path, length)
    curve = read_frame(path, CURVE)
    curve = curve[curve["exit"].notna()].assign(prefill_tokens=length)
    windows = pd.DataFrame(columns=["exit", "competent", "verdict"])
    if (path / f"{WINDOWS.name}.parquet").is_file():
        windows = read_frame(path, WINDOWS)
    windows = windows[["exit", "competent", "verdict"]].astype({"exit": curve["exit"].dtype})
    rows = curve.merge(windows, on="exit", how="left", validate="many_to_one")
    if not len(rows):
        raise InputError(f"{path} has no curves: run the command again")
    return rows
