"""The control domain: probes of two classes of prompts that are unrelated to harm.

Its classes are the two categories of its prompts, such as cooking and growing. None of them is
harmful, so safety training has no reason to move them apart.
"""

from collections.abc import Sequence

import numpy as np

from jaxdepth.errors import InputError, listed
from jaxdepth.probing.folds import cross_fit, make_folds
from jaxdepth.probing.positions import locate_written, resolve_positions
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.evaluate import OWN, score_table
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.tables import PROBE_SCORES
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import open_subject


def two_classes(prompts: Sequence[Prompt], name: str) -> tuple[str, str]:
    """The two categories of prompts, in alphabetical order.

    Raises:
        InputError: there are more or fewer, or a prompt has none.
    """
    categories = sorted({p.category or "no category" for p in prompts})
    if len(categories) != 2 or "no category" in categories:
        raise InputError(
            f"{name} has the categories {listed(categories)}; a control domain has two, one a class"
        )
    return categories[0], categories[1]


@one_at_a_time(lambda settings: settings.output.out)
def probe_control(settings: Probe, bar: ProgressBar = silent) -> Run:
    """Write out-of-fold probe_scores.parquet of a control domain to the output directory.

    Raises:
        InputError: as for `probe`; the prompts are not of two categories.
    """
    subject = open_subject(settings)
    prompts = subject.prompts
    classes = two_classes(prompts, "+".join(settings.prompts.prompts))
    positive_N = np.array([p.category == classes[0] for p in prompts])
    clusters = [p.cluster_id for p in prompts]
    fold_N = make_folds(clusters, positive_N, settings.probes.folds, settings.output.seed)
    located = locate_written(subject.tokenizer, subject.written)
    columns, names, response = resolve_positions(settings.probes.positions, located)
    run = subject.open_run(subject.resolved(command="control", positions=names))
    request = Capture(OWN, located.ids, located.places_NP[:, columns], response)
    capture(run, subject.model, request, settings.prompts.batch_size, bar)
    if run.finished(PROBE_SCORES.name):
        return run
    target = " or ".join(classes)
    ids = [p.prompt_id for p in prompts]
    with bar("probes of the control domain", "positions") as progress:
        for p, position in enumerate(names):
            if not run.has_part(PROBE_SCORES.name, p):
                x_JND = read_stream(run.path, OWN, p)
                fitted = cross_fit(x_JND, positive_N, fold_N, settings.probes.strengths)
                at = {"target": target, "position": position, "set": OWN}
                scores = score_table(at, ids, fold_N, positive_N, fitted.score_GN)
                run.write_part(PROBE_SCORES.name, p, scores)
            progress(p + 1, len(names))
    run.finish_parts(PROBE_SCORES.name, len(names))
    return run
