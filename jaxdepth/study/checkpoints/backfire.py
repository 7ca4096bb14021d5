"""Knowledge and answers of two checkpoints at every exit: does suppressing a topic cost knowledge?

facts/, against.parquet      knowledge, as written by `jaxdepth probe --against --facts`
spoken/base, spoken/against  sweeps of both over the same prompts
spoken.parquet               shares of outcomes in these sweeps
"""

import pyarrow.parquet as pq

from jaxdepth.errors import InputError
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.atomic_files import write_once
from jaxdepth.study.checkpoints.knowledge import read_questions
from jaxdepth.study.checkpoints.paired import write_paired
from jaxdepth.study.checkpoints.run import both_models, knowledge_rows, labelled
from jaxdepth.study.checkpoints.settings import Backfire
from jaxdepth.study.checkpoints.tables import SPOKEN
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.run import run_one
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.settings import AdaptedModel


@one_at_a_time(lambda settings: settings.study.output.out)
def backfire(settings: Backfire, bar: ProgressBar = silent) -> Compared:
    """Measure the knowledge of both checkpoints, and sweep both over the same prompts.

    Coherence is judged by the same reference for both: the base, if none is named.

    Raises:
        InputError: as for `compare_checkpoints` and `sweep`.
    """
    study = settings.study
    if not study.answers.max_new_tokens:
        raise InputError("max_new_tokens is 0: hedging is measured in answers")
    check_ranges(settings)
    models = both_models(AdaptedModel(**vars(study.model)), settings.against)
    questions = read_questions(settings.facts)
    out, seed = study.output.out, study.output.seed
    sides = {
        name: Probe(
            model=model,
            prompts=study.prompts,
            steering=study.steering,
            devices=study.devices,
            output=study.output,
        )
        for name, model in models.items()
    }
    write_paired(out, knowledge_rows(sides, questions, out, settings.draws, seed, bar))
    runs = {name: out / SPOKEN.name / name for name in models}
    for name, model in models.items():
        run_one(study, model, runs[name], labelled(bar, name))
    compared = Compared.read(runs)
    file = out / f"{SPOKEN.name}.parquet"
    write_once(file, lambda p: pq.write_table(compared.table(), p, compression="zstd"))
    return compared
