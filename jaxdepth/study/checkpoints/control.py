"""A domain that has nothing to do with harm, probed as the dangerous one is.

Its two classes are the two categories that its prompts have, such as cooking and growing. None of
them is harmful, so safety training has no reason to move them apart.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jaxdepth.errors import InputError, listed
from jaxdepth.probe.folds import cross_fit, make_folds
from jaxdepth.probe.positions import locate, resolve_positions
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.evaluate import OWN, SCORES, SCORES_SCHEMA, scored
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import Subject


def two_classes(prompts: Sequence[Prompt], name: str) -> tuple[str, str]:
    """The two categories that prompts have, in the order of the alphabet.

    Raises:
        InputError: they have more, or fewer, or some have none.
    """
    found = sorted({p.category or "no category" for p in prompts})
    if len(found) != 2 or "no category" in found:
        raise InputError(
            f"{name} has the categories {listed(found)}; a control domain has two, one a class"
        )
    return found[0], found[1]


def probe_control(settings: Probe, bar: ProgressBar = silent) -> Run:
    """Writes probe_scores.parquet to the run `settings.out`: out of fold, of a control domain.

    Raises:
        InputError: as for `probe`; the prompts are not of two categories.
    """
    subject = Subject.open(settings)
    prompts = subject.prompts
    classes = two_classes(prompts, "+".join(settings.prompts))
    positive_N = np.array([p.category == classes[0] for p in prompts])
    clusters = [p.cluster_id for p in prompts]
    fold_N = make_folds(clusters, positive_N, settings.folds, settings.seed)
    located = locate(subject.encoder, subject.tokenizer, [p.text for p in prompts])
    columns, names, response = resolve_positions(settings.positions, located)
    decided = subject.decided(settings) | {"command": "control", "positions": names}
    run = Run.open(settings.out, decided, subject.facts(settings))
    subject.write_prompts(run)
    wanted = Capture(OWN, located.ids, located.places_NP[:, columns], response)
    capture(run, subject.model, wanted, settings.batch_size, bar)
    if run.finished(SCORES):
        return run
    target = " or ".join(classes)
    ids = [p.prompt_id for p in prompts]
    with bar("probes of the control domain", "positions") as progress:
        for p, position in enumerate(names):
            if not run.has_part(SCORES, p):
                x_JND = read_stream(run.path, OWN, p)
                fitted = cross_fit(x_JND, positive_N, fold_N, settings.strengths)
                at = {"target": target, "position": position, "set": OWN}
                rows = scored(at, ids, fold_N, positive_N, fitted.score_GN)
                run.write_part(SCORES, p, pa.Table.from_pylist(rows, SCORES_SCHEMA))
            progress(p + 1, len(names))
    run.finish_parts(SCORES, len(names))
    return run
