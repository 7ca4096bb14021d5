"""The rows of the tables for one batch: thoughts, verdicts and answers, and interventions."""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxdepth.errors import InputError
from jaxdepth.prompts.batches import Batch
from jaxdepth.refusal.decide import shown
from jaxdepth.refusal.deliberate import ClosedBy, Rule, margin
from jaxdepth.refusal.outcome import judge_replies
from jaxdepth.refusal.protocol import VERDICTS, Verdict
from jaxdepth.study.batched import OnHost
from jaxdepth.study.tables import Table
from jaxdepth.study.verdicts.decider import Decider
from jaxdepth.study.verdicts.tables import (
    CUTS,
    FORCED,
    SERIES,
    SWAPPED,
    TEXTS,
    VERDICT_NAMES,
    VERDICT_TABLE,
)

Row = dict[str, Any]


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
        thought = decided.tokens[b, e, m, : decided.thought[b, e, m]]
        answer = shown(decided, decider.markers, b, e, m)
        verdicts.append(
            lane
            | decision_columns(rule, decided.logp[b, e, m], decided.verdict[b, e, m])
            | {
                "thought_tokens": len(thought),
                "closed_by": ClosedBy(decided.closed_by[b, e, m]).name.lower(),
                "answer_tokens": len(answer),
            }
        )
        texts.append(
            lane
            | {
                "thought": decider.decode_text(thought),
                "answer": decider.decode_text(answer),
                "thought_ids": thought.tolist(),
            }
        )
        cuts += [
            lane | {"cut": cut} | decision_columns(rule, decided.cut_logp[b, e, m, c])
            for c, cut in enumerate(interventions.cuts)
        ]
        for v, verdict in enumerate(VERDICTS if decider.forces else ()):
            answer = decided.forced[b, e, m, v, : decided.forced_lengths[b, e, m, v]]
            forced.append(lane | {"forced": str(verdict)})
            forced_texts.append(decider.decode_text(answer))
    judge = judge_answers(decider, verdicts, [row["answer"] for row in texts])
    judge_forced = judge_answers(decider, forced, forced_texts)
    tables = batch_tables(decider)

    def on_host():
        rows = {VERDICT_TABLE: judge(), TEXTS: texts, CUTS: cuts, FORCED: judge_forced()}
        return [table.from_rows(rows[table]) for table in tables]

    return on_host


def swap_batch(
    decider: Decider,
    batch: Batch,
    thoughts: Mapping[tuple[str, int], Int[np.ndarray, " T"]],
    donors: Mapping[str, str],
) -> OnHost:
    """Decide after the thoughts of other prompts, one vote each.

    Args:
        decider: the model, its protocol and its judge.
        batch: some prompts.
        thoughts: token ids of the first thought of each prompt and exit.
        donors: the prompt whose thought each prompt gets, by ids.
    """
    exits, prompts = decider.subject.exits, decider.subject.prompts
    shape = len(batch.padded_indices), len(exits), 1
    ids = np.zeros((*shape, decider.protocol.thought_tokens), np.int32)
    lengths = np.zeros(shape, np.int32)
    for b, index in enumerate(batch.padded_indices):
        for e, exit_layer in enumerate(exits):
            thought = thoughts[donors[prompts[index].prompt_id], exit_layer]
            ids[b, e, 0, : len(thought)], lengths[b, e, 0] = thought, len(thought)
    decided = decider.decide(batch, votes=1, answer_tokens=0, thoughts=(ids, lengths))
    rows = [
        lane
        | {"thought_of": donors[lane["prompt_id"]]}
        | decision_columns(decider.rule, decided.logp[b, e, m], decided.verdict[b, e, m])
        for b, e, m, lane in _lanes(decider, batch, votes=1)
    ]
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
            answer = shown(decided, decider.markers, b, e, m)
            decision = decision_columns(
                decider.rule, decided.logp[b, e, m], decided.verdict[b, e, m]
            )
            rows.append(lane | decision | {"answer_tokens": len(answer)})
            answers.append(decider.decode_text(answer))
    judge = judge_answers(decider, rows, answers)
    return lambda: [SERIES.from_rows(judge())]


def decision_columns(rule: Rule, logp_3: Float[np.ndarray, "3"], verdict: int | None = None) -> Row:
    """The columns of a verdict; without a verdict the rule chooses it.

    Raises:
        InputError: the log-probabilities are NaN, as of a model whose activations overflow.
    """
    if np.isnan(logp_3).any():
        raise InputError(
            "a verdict has no probabilities: the activations are NaN or infinite; run with --dtype "
            "float32, or check the checkpoint"
        )
    p = np.asarray(rule.probabilities(logp_3))
    verdict = int(rule.choose(p)) if verdict is None else verdict
    return {
        **{f"p_{name}": float(x) for name, x in zip(VERDICTS, p, strict=True)},
        "label_mass": float(np.exp(logp_3.astype(np.float64)).sum()),
        "margin": float(margin(p)),
        "verdict": VERDICT_NAMES[verdict],
    }


def judge_answers(decider: Decider, rows: list[Row], answers: list[str]) -> Callable[[], list[Row]]:
    """Judge the answers of rows; those that abstained, or have no answers, get no outcome.

    The reference model reads the answers at once; the function that is returned judges them.
    """
    if not decider.protocol.answer_tokens or not rows:
        return lambda: rows
    asked = {p.prompt_id: p.asked for p in decider.subject.prompts}
    prompts = [asked[row["prompt_id"]] for row in rows]
    judge = judge_replies(decider.reference, answers, prompts, judge=decider.judge)

    def with_outcomes() -> list[Row]:
        for row, judged in zip(rows, judge(), strict=True):
            abstained = row.get("verdict") == Verdict.ABSTAIN
            row["answer_outcome"] = None if abstained else str(judged.outcome)
        return rows

    return with_outcomes


def _lanes(decider: Decider, batch: Batch, votes: int) -> Iterator[tuple[int, int, int, Row]]:
    """Every lane of a batch: its indices in arrays (B, E, M), and the columns that name it."""
    prompts, exits = decider.subject.prompts, decider.subject.exits
    for b, e, m in np.ndindex(len(batch.indices), len(exits), votes):
        prompt_id = prompts[batch.indices[b]].prompt_id
        yield b, e, m, {"prompt_id": prompt_id, "exit": exits[e], "vote": m}
