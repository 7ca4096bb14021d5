"""What thinking costs: tokens, tokens before the first visible one, and time."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxdepth.depth.generation import generate
from jaxdepth.prompts.batches import Batch
from jaxdepth.study.answers import memory_budget, sampling_of
from jaxdepth.study.run_directory import Run
from jaxdepth.study.verdicts.decider import Decider
from jaxdepth.study.verdicts.tables import COST


class Lengths(NamedTuple):
    """Tokens per prompt and exit, means over both."""

    tokens: float  # of all votes
    before_visible: float  # before the first token that a user sees


class Program(NamedTuple):
    """A program that is timed."""

    name: str
    votes: int


_ANSWER = Program("answer only", 1)
_DECIDE = Program("decide, answer", 1)
_THINK = "think, decide, answer"


def write_cost(run: Run, decider: Decider, batch: Batch) -> None:
    """Compile the programs, time them on one batch in turn, and write cost.parquet.

    Without answers there is nothing to compare with, and no table.
    """
    settings, protocol = decider.settings, decider.protocol
    rounds = settings.interventions.cost_rounds
    if run.finished(COST.name) or not rounds or not protocol.answer_tokens:
        return
    programs = _programs(decider, batch)
    lengths = {program: execute() for program, execute in programs.items()}  # compiles
    seconds = _time_programs(programs, rounds)
    if settings.thinking.series != "none":
        # The second pass decides without a thought, after the first.
        first = Program(_THINK, 1) if protocol.thought_tokens else _DECIDE
        twice = Program("twice, where partial", 1)
        lengths[twice] = Lengths(
            lengths[first].tokens + lengths[_DECIDE].tokens,
            lengths[first].tokens + lengths[_DECIDE].before_visible,
        )
        seconds[twice] = seconds[first] + seconds[_DECIDE]
    baseline = np.median(seconds[_ANSWER])
    rows = []
    for program, (tokens, before_visible) in lengths.items():
        ratios = seconds[program] / baseline
        name, votes = program
        rows.append(
            {
                "program": f"{name}, {votes} votes" if votes > 1 else name,
                "votes": votes,
                "tokens": tokens,
                "before_visible": before_visible,
                "time_ratio": float(np.median(ratios)),
                "low": float(ratios.min()),
                "high": float(ratios.max()),
            }
        )
    run.write_table(COST.name, COST.from_rows(rows))


def _programs(decider: Decider, batch: Batch) -> dict[Program, Callable[[], Lengths]]:
    """The programs that are timed."""
    settings, count = decider.settings, len(batch.indices)
    before_answer = len(decider.markers.close) + 1  # the closing marker and the verdict

    def answer() -> Lengths:
        generation = generate(
            decider.subject.model,
            batch.tokens_BS,
            batch.lengths_B,
            decider.subject.exits,
            decider.protocol.answer_tokens,
            sampling=sampling_of(settings.decoding),
            stop_tokens=decider.subject.end_tokens,
            memory_budget=memory_budget(settings.decoding),
        )
        return Lengths(float(generation.lengths[:count].mean()), 0.0)

    def decide(votes: int, **changes) -> Callable[[], Lengths]:
        def program() -> Lengths:
            decided = decider.decide(batch, votes=votes, **changes)
            before_visible = decided.thought[:count] + before_answer
            # A user waits for the slowest vote.
            return Lengths(
                float(decided.lengths[:count].sum(axis=2).mean()),
                float(before_visible.max(axis=2).mean()),
            )

        return program

    programs = {_ANSWER: answer, _DECIDE: decide(1, thought_tokens=0)}
    if decider.protocol.thought_tokens:
        for votes in sorted({1, settings.thinking.votes}):
            programs[Program(_THINK, votes)] = decide(votes)
    return programs


def _time_programs(
    programs: Mapping[Program, Callable[[], Lengths]], rounds: int
) -> dict[Program, np.ndarray]:
    """Seconds of every program in every round."""
    seconds = {program: np.zeros(rounds) for program in programs}
    for n in range(rounds):
        for program, execute in programs.items():
            start = time.perf_counter()
            execute()
            seconds[program][n] = time.perf_counter() - start
    return seconds
