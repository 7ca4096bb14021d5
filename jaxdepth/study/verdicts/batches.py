"""The rows of the tables for one batch: thoughts, verdicts and answers, and interventions."""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxdepth.prompts.batches import Batch
from jaxdepth.refusal.decide import Decided, shown
from jaxdepth.refusal.deliberate import ClosedBy, Rule, margin
from jaxdepth.refusal.outcome import Outcome, judge_replies
from jaxdepth.refusal.protocol import VERDICTS, Verdict
from jaxdepth.study.batched import OnHost
from jaxdepth.study.common_tables import NON_FINITE
from jaxdepth.study.tables import Table
from jaxdepth.study.verdicts.decider import Decider
from jaxdepth.study.verdicts.tables import (
    CUTS,
    DECISION,
    FORCED,
    SERIES,
    SWAPPED,
    TEXTS,
    VERDICT_NAMES,
    VERDICT_TABLE,
)

Row = dict[str, Any]

_DECISION_COLUMNS = tuple(column.name for column in DECISION)
_SERIES_COLUMNS = (*_DECISION_COLUMNS, "answer_tokens")


def batch_tables(decider: Decider) -> list[Table]:
    """The tables that `decide_batch` makes."""
    settings = decider.settings
    is_made = {
        VERDICT_TABLE: True,
        TEXTS: settings.texts.keep_text,
        CUTS: bool(settings.interventions.cuts),
        FORCED: decider.forces,
    }
    return [table for table, made in is_made.items() if made]


def decide_batch(decider: Decider, batch: Batch) -> OnHost:
    """Decode thoughts, verdicts and answers, also after truncated thoughts and forced verdicts."""
    interventions, rule = decider.settings.interventions, decider.rule
    decided = decider.decide(batch, cuts=interventions.cuts, force=decider.forces)
    verdicts, texts, cuts, forced, forced_texts = [], [], [], [], []
    for b, e, m, lane in _lanes(decider, batch, decider.settings.thinking.votes):
        columns, said = verdict_rows(decider, decided, b, e, m)
        verdicts.append(lane | columns)
        texts.append(lane | said)
        cuts += [
            lane | {"cut": cut} | decision_columns(rule, decided.cut_logp[b, e, m, c])
            for c, cut in enumerate(interventions.cuts)
        ]
        for v, verdict in enumerate(VERDICTS if decider.forces else ()):
            answer = decided.forced[b, e, m, v, : decided.forced_lengths[b, e, m, v]]
            is_finite = decided.forced_finite[b, e, m, v]
            forced.append(lane | {"forced": str(verdict)})
            forced_texts.append(decider.decode_text(answer) if is_finite else None)
    judge = judge_answers(decider, verdicts, [row["answer"] for row in texts])
    judge_forced = judge_answers(decider, forced, forced_texts, without=None)
    tables = batch_tables(decider)

    def on_host():
        rows = {VERDICT_TABLE: judge(), TEXTS: texts, CUTS: cuts, FORCED: judge_forced()}
        return [table.from_rows(rows[table]) for table in tables]

    return on_host


def verdict_rows(decider: Decider, decided: Decided, b: int, e: int, m: int) -> tuple[Row, Row]:
    """The columns of a lane in the tables verdicts and texts.

    What came of logits that are NaN or infinite is null: all of it where the thought did, verdict
    and answer where the verdict did, or the answer alone.
    """
    has_thought = decided.verdict[b, e, m] >= 0
    verdict = decision_columns(decider.rule, decided.logp[b, e, m], decided.verdict[b, e, m])
    is_finite = decided.finite[b, e, m]
    thought = decided.tokens[b, e, m, : decided.thought[b, e, m]] if has_thought else None
    answer = shown(decided, decider.markers, b, e, m) if is_finite else None
    closed_by = ClosedBy(decided.closed_by[b, e, m]).name.lower()
    counts = {
        "thought_tokens": None if thought is None else len(thought),
        "closed_by": closed_by if is_finite else NON_FINITE,
        "answer_tokens": None if answer is None else len(answer),
    }
    said = {
        "thought": None if thought is None else decider.decode_text(thought),
        "answer": None if answer is None else decider.decode_text(answer),
        "thought_ids": None if thought is None else thought.tolist(),
    }
    return verdict | counts, said


def swap_batch(
    decider: Decider,
    batch: Batch,
    thoughts: Mapping[tuple[str, int], Int[np.ndarray, " T"] | None],
    donors: Mapping[str, str],
) -> OnHost:
    """Decide after the thoughts of other prompts, one vote each.

    Args:
        decider: the model, its protocol and its judge.
        batch: some prompts.
        thoughts: token ids of the first thought of each prompt and exit; None of logits that are
            NaN or infinite, after which there is no verdict.
        donors: the prompt whose thought each prompt gets, by ids.
    """
    exits, prompts = decider.subject.exits, decider.subject.prompts
    shape = len(batch.padded_indices), len(exits), 1
    ids = np.zeros((*shape, decider.protocol.thought_tokens), np.int32)
    lengths = np.zeros(shape, np.int32)
    for b, index in enumerate(batch.padded_indices):
        for e, exit_layer in enumerate(exits):
            thought = thoughts[donors[prompts[index].prompt_id], exit_layer]
            if thought is None:
                continue
            ids[b, e, 0, : len(thought)], lengths[b, e, 0] = thought, len(thought)
    decided = decider.decide(batch, votes=1, answer_tokens=0, thoughts=(ids, lengths))
    rows = []
    for b, e, m, lane in _lanes(decider, batch, votes=1):
        donor = donors[lane["prompt_id"]]
        has_thought = thoughts[donor, lane["exit"]] is not None
        logp_3 = decided.logp[b, e, m] if has_thought else np.full(3, np.nan)
        decision = decision_columns(decider.rule, logp_3, decided.verdict[b, e, m])
        rows.append(lane | {"thought_of": donor} | decision)
    return lambda: [SWAPPED.from_rows(rows)]


def repeat_batch(decider: Decider, batch: Batch, partial: Set[tuple[str, int]]) -> OnHost:
    """Decide a second time, without a thought, on the prompts and exits that were PARTIAL.

    Args:
        decider: the model, its protocol and its judge.
        batch: some prompts.
        partial: ids and exits with a first verdict of PARTIAL; others are left out of the rows.
    """
    writes_caveat = decider.settings.thinking.series == "caveat"
    verdict = VERDICTS.index(Verdict.PARTIAL) if writes_caveat else None
    decided = decider.decide(batch, votes=1, thought_tokens=0, verdict=verdict)
    rows, answers = [], []
    for b, e, m, lane in _lanes(decider, batch, votes=1):
        if (lane["prompt_id"], lane["exit"]) in partial:
            columns, said = verdict_rows(decider, decided, b, e, m)
            rows.append(lane | {name: columns[name] for name in _SERIES_COLUMNS})
            answers.append(said["answer"])
    judge = judge_answers(decider, rows, answers)
    return lambda: [SERIES.from_rows(judge())]


def decision_columns(rule: Rule, logp_3: Float[np.ndarray, "3"], verdict: int | None = None) -> Row:
    """The columns of a verdict; without a verdict the rule chooses it.

    All are None where the log-probabilities are NaN, as of a model whose activations overflow, or
    the verdict is -1, because the thought has come of such.
    """
    if verdict == -1 or not np.isfinite(logp_3).all():
        return dict.fromkeys(_DECISION_COLUMNS)
    p = np.asarray(rule.probabilities(logp_3))
    verdict = int(rule.choose(p)) if verdict is None else verdict
    return {
        **{f"p_{name}": float(x) for name, x in zip(VERDICTS, p, strict=True)},
        "label_mass": float(np.exp(logp_3.astype(np.float64)).sum()),
        "margin": float(margin(p)),
        "verdict": VERDICT_NAMES[verdict],
    }


def judge_answers(
    decider: Decider,
    rows: list[Row],
    answers: list[str | None],
    without: Outcome | None = Outcome.UNDETERMINED,
) -> Callable[[], list[Row]]:
    """Judge the answers of rows; those that abstained, or have no answers, get no outcome.

    The reference model reads the answers at once; the function that is returned judges them.

    Args:
        decider: the model, its protocol and its judge.
        rows: of a table; their outcome is added.
        answers: of each row; None where its logits were NaN or infinite.
        without: the outcome of such.
    """
    if not decider.protocol.answer_tokens or not rows:
        return lambda: rows
    asked = {p.prompt_id: p.asked for p in decider.subject.prompts}
    prompts = [asked[row["prompt_id"]] for row in rows]
    texts = [answer or "" for answer in answers]
    judge = judge_replies(decider.reference, texts, prompts, judge=decider.judge)

    def with_outcomes() -> list[Row]:
        for row, answer, judged in zip(rows, answers, judge(), strict=True):
            abstained = row.get("verdict") == Verdict.ABSTAIN
            outcome = judged.outcome if answer is not None else without
            row["answer_outcome"] = None if abstained or outcome is None else str(outcome)
        return rows

    return with_outcomes


def _lanes(decider: Decider, batch: Batch, votes: int) -> Iterator[tuple[int, int, int, Row]]:
    """Every lane of a batch: its indices in arrays (B, E, M), and the columns that name it."""
    prompts, exits = decider.subject.prompts, decider.subject.exits
    for b, e, m in np.ndindex(len(batch.indices), len(exits), votes):
        prompt_id = prompts[batch.indices[b]].prompt_id
        yield b, e, m, {"prompt_id": prompt_id, "exit": exits[e], "vote": m}
