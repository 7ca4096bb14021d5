"""`jaxdepth probe`: what every layer knows of a prompt, beside what the model does.

activations/           residual streams at the positions, by set of prompts
first_token.parquet    what each exit says first, for the refusal curve
probe_scores.parquet   what the logistic probe says of each prompt, out of fold
probes.parquet         how well each probe tells classes apart, with controls
curves.parquet         AUROC by layer of every target, position and set, and of refusal
change_points.parquet  where these curves rise, and lags between them
categories.parquet     cosines of the categories' directions
sum_or_or.parquet      whether refusal adds categories up, where prompts have several
knows_does.parquet     what the probe knows beside what a run did (with --run)
directions.safetensors differences of means, for --directions
thought*.parquet       what is read along thoughts (with --run of decide); see `study.thoughts`
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxdepth.errors import InputError, at_least
from jaxdepth.probing.folds import make_folds
from jaxdepth.probing.positions import Located, locate, resolve_positions
from jaxdepth.prompts.batches import Batch, limit_prompts, make_batches
from jaxdepth.prompts.datasets import Prompt, prompts_digest, read_prompts
from jaxdepth.refusal.openers import resolve_openers
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.common_tables import FIRST_TOKEN
from jaxdepth.study.first_token import first_rows
from jaxdepth.study.probes.activations import Capture, capture, read_stream
from jaxdepth.study.probes.behaviour import NEITHER, REFUSED, Behaviour, read_behaviour
from jaxdepth.study.probes.changes import CHANGES, write_changes
from jaxdepth.study.probes.directions import DIRECTIONS, write_categories, write_directions
from jaxdepth.study.probes.evaluate import (
    BEHAVIOUR,
    BEHAVIOUR_HARMFUL,
    CONTENT,
    OWN,
    PROBES,
    PROBES_SCHEMA,
    SCORES,
    SCORES_SCHEMA,
    Evaluation,
    Examples,
    Target,
    evaluate,
    evaluate_words,
)
from jaxdepth.study.probes.knows_does import KNOWS_DOES, write_knows_does
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.probes.thoughts import probe_thoughts, read_thoughts
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import Subject, open_subject


@dataclass(frozen=True)
class Asked:
    """A set of prompts, located and captured."""

    examples: Examples
    prompts: list[Prompt]
    located: Located
    folder: str

    @classmethod
    def of(cls, subject: Subject, prompts: list[Prompt], name: str, folder: str, s: Probe):
        """Raises InputError where one of the labels is missing."""
        located = locate(subject.encoder, subject.tokenizer, [p.text for p in prompts])
        examples = Examples.of(name, prompts, s.probes.draws, s.output.seed, s.probes.group_by)
        return cls(examples, prompts, located, folder)


def probe(settings: Probe, bar: ProgressBar = silent) -> Run:
    """Runs `jaxdepth probe`: writes the tables above; goes on where an earlier run was stopped.

    Args:
        settings: see `jaxdepth probe --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.

    Raises:
        InputError: something in the settings, the prompts, the checkpoint or the run that is joined
            is wrong.
    """
    _check(settings)
    subject = open_subject(settings)
    own = Asked.of(subject, subject.prompts, OWN, OWN, settings)
    # An error now where folds cannot be made.
    make_folds(own.examples.groups, own.examples.harmful_N, settings.probes.folds)
    _, names, _ = resolve_positions(settings.probes.positions, own.located)
    others = _transfer(settings, subject)
    openers = resolve_openers(subject.encoder, settings.first_token.openers)
    resolved = subject.resolved(
        command="probe",
        openers=openers,
        transfer=[prompts_digest(other.prompts) for other in others],
        positions=names,
    )
    did = thoughts = None
    if settings.probes.run is not None:
        did = read_behaviour(settings.probes.run, own.prompts, resolved)
        thoughts = read_thoughts(settings.probes.run, own.prompts, subject.encoder)
    resolved["run"] = None if did is None else did.digest
    run = subject.open_run(resolved, template=own.located.tokens)
    for asked in (own, *others):
        _capture(run, subject, asked, names, settings.prompts.batch_size, bar)
    model = subject.model
    batches = make_batches(own.located.ids, settings.prompts.batch_size, model.mesh)

    def first(batch: Batch) -> OnHost:
        return first_rows(
            model, subject.tokenizer, batch, own.prompts, subject.exits, openers.values()
        )

    in_parts(run, (FIRST_TOKEN.name,), batches, first, bar)
    wanted = targets(own.examples, did, settings.probes.folds)
    _evaluate(run, settings, subject, own, others, wanted, bar)
    if not run.has_file(DIRECTIONS):
        write_directions(run, subject.loaded.fingerprint, own.prompts, wanted)
    if not run.finished(CHANGES):
        write_categories(run, own.prompts, own.examples, settings.probes.folds)
        write_changes(run, own.examples, [other.examples for other in others])
    if did is not None and not run.finished(KNOWS_DOES):
        write_knows_does(run, own.examples.ids, own.examples.harmful_N, did)
    if thoughts is not None:
        how = evaluation(settings)
        probe_thoughts(
            run,
            subject.model,
            thoughts,
            own.examples,
            wanted,
            how,
            settings.prompts.batch_size,
            bar,
        )
    return run


def evaluation(settings: Probe) -> Evaluation:
    """How the settings ask for probes to be fitted."""
    return Evaluation(settings.probes.folds, settings.probes.strengths, settings.output.seed)


def targets(own: Examples, did: Behaviour | None, folds: int) -> list[Target]:
    """What probes are to tell: content by labels, and behaviour where a run is known.

    Behaviour among harmful prompts only holds content fixed. A behaviour that is too rare, or too
    common, for both classes to be in every fold is left out.
    """
    found = [Target(CONTENT, np.arange(len(own.ids)), own.harmful_N)]
    if did is not None:
        for name, mine_N in ((BEHAVIOUR, True), (BEHAVIOUR_HARMFUL, own.harmful_N)):
            rows = np.flatnonzero((did.at_full_depth_N != NEITHER) & mine_N)
            target = Target(name, rows, did.at_full_depth_N[rows] == REFUSED)
            found += [target] if target.fits(folds, own.groups) else []
    return found


def _evaluate(run, settings: Probe, subject, own: Asked, others, wanted: list[Target], bar) -> None:
    """Fits and scores position by position; an earlier attempt's positions are left out."""
    if run.finished(PROBES) and run.finished(SCORES):
        return
    how = evaluation(settings)
    names = run.record["settings"]["positions"]
    with bar("probes", "positions") as progress:
        for p, position in enumerate(names):
            if not (run.has_part(PROBES, p) and run.has_part(SCORES, p)):
                probes, scores = [], []
                x_JND = read_stream(run.path, own.folder, p)
                transfer = [(o.examples, read_stream(run.path, o.folder, p)) for o in others]
                for target in wanted:
                    more = evaluate(how, position, own.examples, x_JND, transfer, target)
                    probes += more[0]
                    scores += more[1]
                run.write_part(PROBES, p, pa.Table.from_pylist(probes, PROBES_SCHEMA))
                run.write_part(SCORES, p, pa.Table.from_pylist(scores, SCORES_SCHEMA))
            progress(p + 1, len(names))
    words_NV, *theirs = word_counts(subject, [own, *others])
    transfer = [(o.examples, w) for o, w in zip(others, theirs, strict=True)]
    rows = [r for t in wanted for r in evaluate_words(how, own.examples, words_NV, transfer, t)]
    run.write_part(PROBES, len(names), pa.Table.from_pylist(rows, PROBES_SCHEMA))
    run.finish_parts(SCORES, len(names))
    run.finish_parts(PROBES, len(names) + 1)


def word_counts(subject: Subject, sets: Sequence[Asked]) -> list[np.ndarray]:
    """Which tokens each prompt has, by set (N, V); tokens of the first set's prompts only."""
    ids = [[set(subject.encoder.encode_text(p.text)) for p in s.prompts] for s in sets]
    known = {token: v for v, token in enumerate(sorted(set().union(*ids[0])))}
    tables = []
    for prompts in ids:
        has_NV = np.zeros((len(prompts), len(known)), np.float32)
        for n, tokens in enumerate(prompts):
            has_NV[n, [known[t] for t in tokens if t in known]] = 1
        tables.append(has_NV)
    return tables


def _capture(run, subject: Subject, asked: Asked, names, batch_size, bar) -> None:
    columns, _, response = resolve_positions(names, asked.located)
    places_NP = asked.located.places_NP[:, columns]
    wanted = Capture(asked.folder, asked.located.ids, places_NP, response)
    capture(run, subject.model, wanted, batch_size, bar)


def _transfer(settings: Probe, subject: Subject) -> list[Asked]:
    found = []
    for number, joined in enumerate(settings.probes.transfer):
        sources = joined.split("+")
        prompts = limit_prompts(read_prompts(sources), settings.prompts.limit)
        name = "+".join(Path(s.partition("=")[2] or s).stem for s in sources)
        folder = f"transfer{number}"
        found.append(Asked.of(subject, prompts, name, folder, settings))
    return found


def _check(settings: Probe) -> None:
    """What can be wrong with the settings by themselves, before anything is loaded."""
    at_least(1, batch_size=settings.prompts.batch_size, draws=settings.probes.draws)
    at_least(3, folds=settings.probes.folds)
    if not settings.probes.strengths or not all(
        0 < c < math.inf for c in settings.probes.strengths
    ):
        raise InputError(f"strengths are {settings.probes.strengths}, expected numbers above 0")
    if not settings.probes.positions:
        raise InputError("no positions: name at least one, or all")
