"""The sweep: every prompt at every exit, in chunks that survive a kill."""

from dataclasses import asdict
from typing import cast

from jaxdepth.depth.lanes import plan_segments
from jaxdepth.errors import InputError
from jaxdepth.prompts.batches import Batch, limit_indices
from jaxdepth.ranges import check_ranges
from jaxdepth.refusal.outcome import Judge
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import Answerer, warn_non_finite, warn_stops
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.chosen_judge import ChosenJudge, choose_judge
from jaxdepth.study.common_tables import FIRST_TOKEN, GENERATIONS
from jaxdepth.study.first_token import first_rows
from jaxdepth.study.run_directory import Run
from jaxdepth.study.settings import ExitStudy
from jaxdepth.study.subject import Subject, open_subject
from jaxdepth.study.sweep.settings import Sweep


@one_at_a_time(lambda settings: settings.output.out)
def sweep(settings: Sweep, bar: ProgressBar = silent, judge: Judge | None = None) -> Run:
    """Run `jaxdepth sweep`: write the tables prompts, first_token and generations.

    Batches are written as they are finished; the same settings resume a run that was stopped.

    Args:
        settings: see `jaxdepth sweep --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.
        judge: judges the outcomes of answers in place of that of the settings; see
            `classify_texts`.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    check_sweep(settings)
    chosen = choose_judge(settings.texts, judge, settings.output.out)
    return sweep_subject(open_subject(settings, settings.decoding.exits), chosen, bar)


def sweep_subject(
    subject: Subject, chosen: ChosenJudge, bar: ProgressBar = silent, **resolved
) -> Run:
    """Sweep a subject whose settings are an `ExitStudy`'s.

    Args:
        subject: the model, its exits and its prompts.
        chosen: the judge of answers.
        bar: shows progress.
        resolved: settings that stand for the run besides those of the subject.

    Raises:
        InputError: as `sweep`.
    """
    settings = cast(ExitStudy, subject.settings)
    model, prompts, exits = subject.model, subject.prompts, subject.exits
    openers = resolved.get("openers") or subject.openers(settings.first_token.openers)
    ids = subject.prompt_ids()
    new_tokens = settings.answers.max_new_tokens
    chosen_prompts = limit_indices(prompts, settings.answers.generate_limit)
    first_batches = subject.batches(ids)
    batches = subject.batches(ids, new_tokens, chosen_prompts)
    resolved = {"openers": openers, **chosen.resolved, **resolved}
    resolved = subject.resolved(command="sweep", **resolved)
    segments = [asdict(s) for s in plan_segments(exits)]
    run = subject.open_run(resolved, segments=segments)

    def first(batch: Batch) -> OnHost:
        return first_rows(model, subject.tokenizer, batch, prompts, exits, openers.values())

    in_parts(run, (FIRST_TOKEN.name,), first_batches, first, bar)
    if new_tokens and not run.finished(GENERATIONS.name):
        reference = subject.reference(settings.texts)
        chosen.read_labels(prompts)
        answerer = Answerer(settings, subject, reference, chosen.judge)
        in_parts(run, (GENERATIONS.name,), batches, answerer.rows, bar)
        chosen.warn(run.path)
    warn_non_finite(run, FIRST_TOKEN, GENERATIONS)
    warn_stops(run, GENERATIONS, settings.answers.stop)
    return run


def check_sweep(settings: ExitStudy) -> None:
    """Raise InputError for invalid settings, before anything is loaded."""
    check_ranges(settings)
    if settings.answers.samples > 1 and settings.decoding.temperature == 0:
        raise InputError("several samples at temperature 0 are all equal: set --temperature")
    if any(not stop for stop in settings.answers.stop):
        raise InputError("an empty stop text would end every answer: leave it out")
