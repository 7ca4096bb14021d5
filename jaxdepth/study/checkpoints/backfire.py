"""What two checkpoints know and what they say: facts off every exit, and spoken answers.

facts/, against.parquet   as of `jaxdepth probe --against --facts`
spoken/base, spoken/against, spoken.parquet   sweeps of both, and the shares of what they did
"""

from dataclasses import fields, replace

import pyarrow.parquet as pq

from jaxdepth.errors import InputError, at_least
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.checkpoints.facts import read_facts
from jaxdepth.study.checkpoints.paired import write_paired
from jaxdepth.study.checkpoints.run import both_sides, compare_knowledge, named
from jaxdepth.study.checkpoints.settings import Backfire
from jaxdepth.study.comparison.outcomes import Compared, run_one
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.run_directory import write_once
from jaxdepth.study.settings import OnModel


def backfire(settings: Backfire, bar: ProgressBar = silent) -> Compared:
    """Reads facts off both checkpoints and sweeps both over the same prompts.

    Coherence is judged by the same reference for both: the base, if none is named.

    Raises:
        InputError: as for `compare_checkpoints` and `sweep`.
    """
    if not settings.max_new_tokens:
        raise InputError("max_new_tokens is 0: hedging is told by what is said")
    at_least(1, draws=settings.draws)
    both = both_sides(settings.model, None, settings.against)
    facts = read_facts(settings.facts)
    out = settings.out
    shared = {f.name: getattr(settings, f.name) for f in fields(OnModel)}
    sides = {name: Probe(**shared | of) for name, of in both.items()}
    rows = compare_knowledge(sides, facts, out, settings.draws, settings.seed, bar)
    write_paired(out, rows)
    runs = {name: out / "spoken" / name for name in both}
    reference = settings.reference or settings.model
    for name, of in both.items():
        speaks = replace(settings, model=of["model"], reference=reference)
        run_one(speaks, of["adapter"], runs[name], named(bar, name))
    compared = Compared.read(runs)
    file = out / "spoken.parquet"
    write_once(file, lambda p: pq.write_table(compared.table(), p, compression="zstd"))
    return compared
