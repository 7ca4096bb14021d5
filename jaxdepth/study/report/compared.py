"""Models beside each other: sweeps of the same prompts and exits, paired by prompt."""

from collections.abc import Sequence
from itertools import combinations

from jaxdepth.errors import InputError
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.comparison.summary import answered_contrast
from jaxdepth.study.report.reading import SWEEP, ReportRun
from jaxdepth.study.settings import UNTOUCHED

MAX_PAIRED = 6  # models of which every pair is compared


def compare_runs(runs: Sequence[ReportRun]) -> Compared | None:
    """The sweeps among some runs as a comparison.

    None where prompts, exits, or the rule by which exits can answer are not the same.
    """
    sweeps = [run for run in runs if run.command == SWEEP and run.outcomes is not None]
    prompts = {run.record["settings"].get("prompts_sha256") for run in sweeps}
    if not sweeps or len(prompts) > 1:
        return None
    try:
        compared = Compared.read({run.name: run.path for run in sweeps})
    except InputError:  # other prompts or exits: nothing is paired
        return None
    for run in sweeps:
        competent_E = compared.windows(run.name).competent
        if run.windows is None or (run.windows.competent != competent_E).any():
            return None
    return compared


def contrast_lines(c: Compared | None) -> list[str]:
    """What models do with harmful prompts beside each other, before the deepest exit.

    Refusals: each model against the untouched one, or else the first. Answers: each pair of models
    over the exits at which both can answer; of many models only pairs with the first.
    """
    if c is None or not any(group.endswith(" harmful") for group in c.groups):
        return []
    base = UNTOUCHED if UNTOUCHED in c.models else c.models[0]
    early = c.exits[:-1]
    refused = [
        f"{model} against {base}: harmful prompts refused before exit {c.exits[-1]} "
        f"{c.difference(model, base, 'harmful', early, Outcome.REFUSE):points}."
        for model in c.models
        if model != base and early
    ]
    firsts = c.models if len(c.models) <= MAX_PAIRED else (base,)
    pairs = [(a, b) for a, b in combinations(c.models, 2) if {a, b} & {*firsts}]
    answered = [
        f"{b} against {a}: harmful prompts {answered_contrast(c, b, a)}."
        for a, b in pairs
        if c.competent(a, b)
    ]
    return refused + answered
