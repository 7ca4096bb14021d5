"""`jaxdepth probe`: what a linear probe reads at every layer, compared with what the model does.

activations/           residual streams at the positions, by set of prompts
first_token.parquet    every exit's first token, for the refusal curve
probe_scores.parquet   decision values of the logistic probe for each prompt, out of fold
probes.parquet         how well each probe tells classes apart, with controls
curves.parquet         AUROC by layer of every target, position and set, and of refusal
change_points.parquet  where these curves rise, and lags between them
categories.parquet     cosines of the categories' directions
sum_or_or.parquet      whether refusal adds categories up, where prompts have several
knows_does.parquet     what the probe reads beside what a run did (with --run)
directions.safetensors differences of means, for --directions
probes.safetensors     probes of the prompt's last token, for `sweep --policy guarded=...`
thought*.parquet       probes along thoughts (with --run of decide); see `study.probes.thoughts`
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from jaxdepth.errors import InputError
from jaxdepth.probing.folds import make_folds
from jaxdepth.probing.positions import Located, locate_written, resolve_positions
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.datasets import Prompt, prompts_digest
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.common_tables import FIRST_TOKEN
from jaxdepth.study.first_token import first_rows
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.behaviour import NEITHER, REFUSED, Behaviour, read_behaviour
from jaxdepth.study.probes.changes import write_changes
from jaxdepth.study.probes.directions import DIRECTIONS, write_categories, write_directions
from jaxdepth.study.probes.evaluate import (
    BEHAVIOUR,
    BEHAVIOUR_HARMFUL,
    CONTENT,
    OWN,
    CrossValidation,
    Examples,
    Target,
    evaluate,
    evaluate_words,
)
from jaxdepth.study.probes.harm_probes import HARM_PROBES, write_harm_probes
from jaxdepth.study.probes.knows_does import write_knows_does
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.tables import CHANGE_POINTS, KNOWS_DOES, PROBE_SCORES, PROBES
from jaxdepth.study.probes.thoughts import probe_thoughts, read_thoughts
from jaxdepth.study.prompting.sets import read_study_prompts
from jaxdepth.study.prompting.written import write_prompts
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import Subject, check_lengths, open_subject


@dataclass(frozen=True)
class ProbedPrompts:
    """A set of prompts with their labels and token positions."""

    examples: Examples
    prompts: list[Prompt]
    located: Located
    folder: str  # of its residual streams

    @classmethod
    def of(
        cls, subject: Subject, prompts: list[Prompt], name: str, folder: str, settings: Probe
    ) -> "ProbedPrompts":
        """Tokenize prompts; raise InputError where one of the labels is missing."""
        if len({prompt.prefill for prompt in prompts}) > 1:
            raise InputError(
                f"the prompts of {name} have different starts of replies (prefills): positions "
                "after the text would be those of different tokens; give all of them one"
            )
        is_own = prompts is subject.prompts
        conversations = subject.loaded.conversations
        written = subject.written if is_own else write_prompts(conversations, prompts)
        located = locate_written(subject.tokenizer, written)
        check_lengths(subject.model.config, prompts, located.ids, 1)
        s = settings.probes
        examples = Examples.of(name, prompts, s.draws, settings.output.seed, s.group_by)
        return cls(examples, prompts, located, folder)


@one_at_a_time(lambda settings: settings.output.out)
def probe(settings: Probe, bar: ProgressBar = silent) -> Run:
    """Run `jaxdepth probe`: write the tables above; resume where an earlier run was stopped.

    Args:
        settings: see `jaxdepth probe --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.

    Raises:
        InputError: something in the settings, the prompts, the checkpoint or the run that `run`
            names is wrong.
    """
    _check(settings)
    subject = open_subject(settings)
    own = ProbedPrompts.of(subject, subject.prompts, OWN, OWN, settings)
    # An error now where folds cannot be made.
    make_folds(own.examples.groups, own.examples.harmful_N, settings.probes.folds)
    _, names, _ = resolve_positions(settings.probes.positions, own.located)
    transfer = _transfer_sets(settings, subject)
    openers = subject.openers(settings.first_token.openers)
    resolved = subject.resolved(
        command="probe",
        openers=openers,
        transfer=[prompts_digest(other.prompts) for other in transfer],
        positions=names,
    )
    behaviour = thoughts = None
    if settings.probes.run is not None:
        behaviour = read_behaviour(settings.probes.run, own.prompts, resolved)
        thoughts = read_thoughts(settings.probes.run, own.prompts, subject.loaded.conversations)
    resolved["run"] = None if behaviour is None else behaviour.digest
    run = subject.open_run(resolved, template=own.located.tokens)
    batch_size = settings.prompts.batch_size
    for prompts in (own, *transfer):
        _capture(run, subject, prompts, names, batch_size, bar)
    _write_first_tokens(run, subject, own, openers.values(), batch_size, bar)
    targets = make_targets(own.examples, behaviour, settings.probes.folds)
    validation = CrossValidation(
        settings.probes.folds, settings.probes.strengths, settings.output.seed
    )
    _write_probes(run, subject, own, transfer, targets, validation, bar)
    if not run.has_file(DIRECTIONS):
        write_directions(run, subject.loaded.fingerprint, own.prompts, targets)
    if not run.has_file(HARM_PROBES):
        write_harm_probes(
            run, subject.loaded.identity, own.prompts, own.located, own.examples, targets,
            validation,
        )  # fmt: skip
    if not run.finished(CHANGE_POINTS.name):
        write_categories(run, own.prompts, own.examples, settings.probes.folds)
        write_changes(run, own.examples, [other.examples for other in transfer])
    if behaviour is not None and not run.finished(KNOWS_DOES.name):
        write_knows_does(run, own.examples.ids, own.examples.harmful_N, behaviour)
    if thoughts is not None:
        probe_thoughts(
            run, subject.model, thoughts, own.examples, targets, validation, batch_size, bar
        )
    return run


def make_targets(own: Examples, behaviour: Behaviour | None, folds: int) -> list[Target]:
    """The targets of the probes: content by labels, and behaviour where a run of it is given.

    Behaviour among harmful prompts only keeps content fixed. A behaviour that is too rare, or too
    common, for both classes to be in every fold is left out.
    """
    targets = [Target(CONTENT, np.arange(len(own.ids)), own.harmful_N)]
    if behaviour is not None:
        acted_N = behaviour.at_full_depth_N != NEITHER
        for name, rows_M in (
            (BEHAVIOUR, np.flatnonzero(acted_N)),
            (BEHAVIOUR_HARMFUL, np.flatnonzero(acted_N & own.harmful_N)),
        ):
            target = Target(name, rows_M, behaviour.at_full_depth_N[rows_M] == REFUSED)
            if target.fits(folds, own.groups):
                targets.append(target)
    return targets


def _write_first_tokens(
    run: Run,
    subject: Subject,
    own: ProbedPrompts,
    openers: Iterable[int],
    batch_size: int,
    bar: ProgressBar,
) -> None:
    model = subject.model
    batches = make_batches(own.located.ids, batch_size, model.mesh)

    def rows(batch: Batch) -> OnHost:
        return first_rows(model, subject.tokenizer, batch, own.prompts, subject.exits, openers)

    in_parts(run, (FIRST_TOKEN.name,), batches, rows, bar)


def _write_probes(
    run: Run,
    subject: Subject,
    own: ProbedPrompts,
    transfer: Sequence[ProbedPrompts],
    targets: Sequence[Target],
    validation: CrossValidation,
    bar: ProgressBar,
) -> None:
    """Fit and score probes position by position; those of an earlier attempt are kept."""
    if run.finished(PROBES.name) and run.finished(PROBE_SCORES.name):
        return
    names = run.record["settings"]["positions"]
    with bar("probes", "positions") as progress:
        for p, position in enumerate(names):
            if not (run.has_part(PROBES.name, p) and run.has_part(PROBE_SCORES.name, p)):
                x_JND = read_stream(run.path, own.folder, p)
                streams = [(o.examples, read_stream(run.path, o.folder, p)) for o in transfer]
                tables = [
                    evaluate(validation, position, own.examples, x_JND, streams, target)
                    for target in targets
                ]
                probes, scores = zip(*tables, strict=True)
                run.write_part(PROBES.name, p, pa.concat_tables(probes))
                run.write_part(PROBE_SCORES.name, p, pa.concat_tables(scores))
            progress(p + 1, len(names))
    words_NV, *other_words = word_counts(subject, [own, *transfer])
    others = [(o.examples, w) for o, w in zip(transfer, other_words, strict=True)]
    tables = [evaluate_words(validation, own.examples, words_NV, others, t) for t in targets]
    run.write_part(PROBES.name, len(names), pa.concat_tables(tables))
    run.finish_parts(PROBE_SCORES.name, len(names))
    run.finish_parts(PROBES.name, len(names) + 1)


def word_counts(subject: Subject, sets: Sequence[ProbedPrompts]) -> list[Float[np.ndarray, "N V"]]:
    """Whether each prompt has each token, by set; V are the tokens of the first set's prompts."""
    ids = [[set(subject.encoder.encode_text(p.text)) for p in s.prompts] for s in sets]
    columns = {token: v for v, token in enumerate(sorted(set().union(*ids[0])))}
    matrices = []
    for ids_N in ids:
        has_NV = np.zeros((len(ids_N), len(columns)), np.float32)
        for n, tokens in enumerate(ids_N):
            has_NV[n, [columns[t] for t in tokens if t in columns]] = 1
        matrices.append(has_NV)
    return matrices


def _capture(
    run: Run,
    subject: Subject,
    prompts: ProbedPrompts,
    names: Sequence[str],
    batch_size: int,
    bar: ProgressBar,
) -> None:
    located = prompts.located
    columns, _, response = resolve_positions(names, located)
    positions = Capture(prompts.folder, located.ids, located.places_NP[:, columns], response)
    capture(run, subject.model, positions, batch_size, bar)


def _transfer_sets(settings: Probe, subject: Subject) -> list[ProbedPrompts]:
    sets = []
    for number, joined in enumerate(settings.probes.transfer):
        sources = joined.split("+")
        prompts = read_study_prompts(settings.prompts, sources)
        name = "+".join(Path(s.partition("=")[2] or s).stem for s in sources)
        sets.append(ProbedPrompts.of(subject, prompts, name, f"transfer{number}", settings))
    return sets


def _check(settings: Probe) -> None:
    """Raise InputError for what is wrong with the settings alone, before anything is loaded."""
    check_ranges(settings)
    if not settings.probes.strengths:
        raise InputError("no strengths: name at least one, such as 1.0")
    if not settings.probes.positions:
        raise InputError("no positions: name at least one, or all")
