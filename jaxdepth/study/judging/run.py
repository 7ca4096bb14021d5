"""`jaxdepth judge`: other judges of the answers that a run has kept; nothing is generated again.

judgements.parquet        every answer under every judge so far
judge_agreement.parquet   how far each two judges agree, and each with the run's own outcomes
judge_confusion.parquet   which outcomes they take for one another

Judgements are written in chunks, so that a judge that fails loses nothing. They are reused as long
as the judge's identity is unchanged; an answer on which a judge failed is asked about again.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import pandas as pd

from jaxdepth.errors import InputError
from jaxdepth.judges.identity import UnknownIdentity, identity_of
from jaxdepth.judges.open import check_spec, open_judge
from jaxdepth.judges.own import OwnJudge
from jaxdepth.judges.verdict import ABSTAINS, NamedJudge, Pair, Verdict
from jaxdepth.ranges import check_ranges
from jaxdepth.refusal.outcome import BUILT_IN, Judge, TextOutcome, classify_texts
from jaxdepth.refusal.reference import Reference
from jaxdepth.refusal.thought import answer_after_thought
from jaxdepth.runtime import preemption
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.log import begin_log, warn
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.judging.agreement import RUN, agreement_rows, confusion_rows
from jaxdepth.study.judging.kept import LANE, read_answers
from jaxdepth.study.judging.reference import Readers, readers_of
from jaxdepth.study.judging.settings import Rejudge
from jaxdepth.study.judging.tables import AGREEMENT, CONFUSION, JUDGEMENTS
from jaxdepth.study.prompting.sets import read_prompts_of
from jaxdepth.study.run_directory import Run, read_record, read_table

CHUNK = 256  # distinct answers that are judged between two writes
_CHUNKS = "judgement_chunks"  # the folder of the chunks, in parts/
_KEY = [*LANE, "judge", "identity"]


class Panel:
    """A run with the judges of its answers."""

    def __init__(self, run: Run, settings: Rejudge) -> None:
        self.run, self.settings = run, settings
        self.answers = read_answers(run.path)
        self.prompts = read_prompts_of(run.path)
        self.answers["prompt"] = [self.prompts[i].asked for i in self.answers["prompt_id"]]

    @cached_property
    def readers(self) -> Readers:
        """What the built-in rule reads answers by."""
        return readers_of(self.run.record, self.settings)

    @cached_property
    def reference(self) -> Reference:
        """The same, loaded when a judge first needs it."""
        return self.readers.load()

    def identity(self, judge: NamedJudge | None) -> str:
        """The digest of what decides the outcomes: also of the built-in rule, where it may."""
        if judge is None:
            return self.readers.identity
        if not judge.needs_reference:
            return judge.identity
        return hashlib.sha256(f"{judge.identity} {self.readers.identity}".encode()).hexdigest()

    def decide(self, judge: NamedJudge | None, pairs: Sequence[Pair]) -> list[TextOutcome]:
        """The outcomes of distinct pairs of prompt and text."""
        prompts, texts = ([pair[n] for pair in pairs] for n in (0, 1))
        if judge is not None and not judge.needs_reference:
            return classify_texts(texts, prompts, judge=judge)
        return classify_texts(texts, prompts, reference=self.reference, judge=judge)


@one_at_a_time(lambda settings: settings.run)
def judge_run(settings: Rejudge, bar: ProgressBar = silent, functions: Sequence[Judge] = ()) -> Run:
    """Judge a run's answers, and write the tables above; resume where it was stopped.

    Args:
        settings: see `jaxdepth judge --help`.
        bar: shows progress.
        functions: more judges, besides those that the settings name.

    Raises:
        InputError: the run keeps no texts, or a judge cannot be opened or fails; what was judged
            until then is kept.
    """
    check_ranges(settings)
    if jax.process_count() > 1:
        raise InputError("`jaxdepth judge` runs in one process")
    if not settings.judge and not functions:
        raise InputError("no judge is named: give at least one --judge, such as --judge builtin")
    for spec in settings.judge:
        check_spec(spec)
    begin_log(settings.run)
    panel = Panel(Run(settings.run, read_record(settings.run)), settings)
    judges: list[NamedJudge | None] = [
        open_judge(spec, panel.prompts.values()) for spec in dict.fromkeys(settings.judge)
    ]
    judges += [_wrap(function) for function in functions]
    done = _written(panel.run)
    for judge in judges:
        done = _judge_missing(panel, judge, done, bar)
        _warn(judge)
    _finish(panel, done, {(_name(judge), panel.identity(judge)) for judge in judges})
    return panel.run


def current(judgements: pd.DataFrame, answers: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The outcomes of all judges, one column each beside the run's own, and their names."""
    lanes = list(_plain(answers[LANE]).itertuples(index=False, name=None))
    outcomes = answers[["prompt_id", "exit"]].assign(**{RUN: answers["outcome"]})
    names = [RUN]
    for name, rows in labelled(judgements).groupby("label", sort=False):
        keys = rows[LANE].itertuples(index=False, name=None)
        outcome_of = dict(zip(keys, rows["outcome"], strict=True))
        outcomes[name] = [outcome_of.get(lane) for lane in lanes]
        names.append(str(name))
    return outcomes, names


def labelled(judgements: pd.DataFrame) -> pd.DataFrame:
    """The judgements with a label for each judge: its name, and its identity if two share it."""
    by_name = judgements.groupby("judge")["identity"].nunique()
    labels = [
        name if by_name[name] == 1 else f"{name} {identity[:8]}"
        for name, identity in zip(judgements["judge"], judgements["identity"], strict=True)
    ]
    return judgements.assign(label=labels)


def _judge_missing(
    panel: Panel, judge: NamedJudge | None, done: pd.DataFrame, bar: ProgressBar
) -> pd.DataFrame:
    """Judge what a judge has not judged yet, chunk by chunk; all judgements so far."""
    name, identity = _name(judge), panel.identity(judge)
    own = done[(done["judge"] == name) & (done["identity"] == identity) & ~done["failed"]]
    known = set(own[LANE].itertuples(index=False, name=None))
    lanes = _plain(panel.answers[LANE]).itertuples(index=False, name=None)
    missing = panel.answers[[lane not in known for lane in lanes]]
    pairs = list(dict.fromkeys(zip(missing["prompt"], missing["text"], strict=True)))
    first_part, tables = len(panel.run.read_parts(_CHUNKS)), [done]
    with bar(f"judging: {name}", "answers") as progress:
        for start in range(0, len(pairs), CHUNK):
            preemption.raise_if_stop_requested()
            chunk = pairs[start : start + CHUNK]
            try:
                outcomes = panel.decide(judge, chunk)
            except InputError as error:
                raise InputError(
                    f"{error}. {start} of {len(pairs)} answers are judged by {name} and kept: mend "
                    "the judge, or leave it out, and run the command again"
                ) from None
            judged = {
                pair: _columns(judge, pair, outcome)
                for pair, outcome in zip(chunk, outcomes, strict=True)
            }
            rows = _plain(missing[[*LANE, "prompt", "text"]]).to_dict("records")
            table = JUDGEMENTS.from_rows(
                row | judged[pair] | {"judge": name, "identity": identity}
                for row in rows
                if (pair := (row.pop("prompt"), row.pop("text"))) in judged
            )
            panel.run.write_part(_CHUNKS, first_part + len(tables) - 1, table)
            tables.append(table.to_pandas())
            progress(min(start + CHUNK, len(pairs)), len(pairs))
    return _latest(tables)


def _columns(judge: NamedJudge | None, pair: Pair, judged: TextOutcome) -> dict:
    """The columns of one judgement."""
    verdict = Verdict(None, str(judged.outcome), judged.score)
    if judge is not None:
        prompt, answer = pair[0], answer_after_thought(pair[1])
        verdict = ABSTAINS if answer is None else judge.known(prompt, answer)
    return {
        "outcome": str(judged.outcome),
        "verdict": verdict.word,
        "score": verdict.score,
        "failed": verdict.failed,
    }


def _finish(panel: Panel, done: pd.DataFrame, given: set[tuple[str, str]]) -> None:
    """Write the tables; judgements by an earlier version of one of these judges are dropped."""
    names = {name for name, _ in given}
    keys = zip(done["judge"], done["identity"], strict=True)
    done = done[[key in given or key[0] not in names for key in keys]].reset_index(drop=True)
    run = panel.run
    run.write_table(JUDGEMENTS.name, JUDGEMENTS.from_frame(done))
    run.remove_parts(_CHUNKS)
    outcomes, judges = current(done, panel.answers)
    clusters = [panel.prompts[prompt_id].cluster_id for prompt_id in outcomes["prompt_id"]]
    rows = agreement_rows(outcomes, judges, clusters, panel.settings.seed)
    run.write_table(AGREEMENT.name, AGREEMENT.from_rows(rows))
    run.write_table(CONFUSION.name, CONFUSION.from_rows(confusion_rows(outcomes, judges)))


def _written(run: Run) -> pd.DataFrame:
    """The judgements that are written, those of a command that was stopped included.

    The finished table is a chunk, too: a kill while it is replaced must not lose it.
    """
    tables = run.read_parts(_CHUNKS)
    if run.finished(JUDGEMENTS.name):
        tables.insert(0, read_table(run.path, JUDGEMENTS))
        run.write_part(_CHUNKS, len(run.read_parts(_CHUNKS)), tables[0])
    return _latest([table.to_pandas() for table in tables] or [JUDGEMENTS.empty().to_pandas()])


def _latest(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All judgements; of several of one answer by one judge the last."""
    frames = [_plain(frame) for frame in frames if len(frame)] or [_plain(frames[0])]
    together = pd.concat(frames, ignore_index=True)
    return together.drop_duplicates(_KEY, keep="last", ignore_index=True)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with None for what is missing, and whole numbers for exits."""
    plain = frame.astype(object)
    plain = plain.where(plain.notna(), None)
    plain["exit"] = [None if value is None else int(value) for value in plain["exit"]]
    if "failed" in plain:
        plain["failed"] = plain["failed"].astype(bool)
    return plain


def _wrap(function: Callable) -> NamedJudge:
    """A function as a judge; what cannot be known again is never reused."""
    if isinstance(function, NamedJudge):
        return function
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        identity = identity_of(function)
    except UnknownIdentity:
        identity = f"unknown {uuid.uuid4().hex}"
    return OwnJudge(name, identity, function)


def _name(judge: NamedJudge | None) -> str:
    return BUILT_IN if judge is None else judge.name


def _warn(judge: NamedJudge | None) -> None:
    line = "" if judge is None else judge.warning()
    if line:
        warn(f"{line}: run the command again to ask once more")
