"""What thinking costs: tokens, tokens before the first visible one, and time, side by side."""

import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from jaxdepth.depth.generation import generate
from jaxdepth.prompts.batches import Batch
from jaxdepth.study.answers import memory_budget, sampling_of
from jaxdepth.study.run_directory import Run
from jaxdepth.study.verdicts.run import Thinker

COST = "cost"
SCHEMA = pa.schema(
    [
        ("program", pa.string()),
        ("votes", pa.int32()),
        ("tokens", pa.float64()),  # generated per prompt and exit, all votes together
        ("before_visible", pa.float64()),  # steps until the first token that a user sees
        ("time_ratio", pa.float64()),  # of medians, to answering at once without a verdict
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


def write_cost(run: Run, thinker: Thinker, batch: Batch) -> None:
    """Times the programs on one batch, in turn in this process, after each was compiled.

    Without answers there is nothing to compare with, and no table.
    """
    s, protocol = thinker.settings, thinker.protocol
    if run.finished(COST) or not s.interventions.cost_rounds or not protocol.answer_tokens:
        return
    real = len(batch.indices)
    marker = len(thinker.markers.close) + 1

    def answering() -> tuple[float, float]:
        said = generate(
            thinker.subject.model,
            batch.tokens_BS,
            batch.lengths_B,
            thinker.subject.exits,
            protocol.answer_tokens,
            sampling=sampling_of(s.decoding),
            stop_tokens=thinker.subject.end_tokens,
            memory_budget=memory_budget(s.decoding),
        )
        return float(said.lengths[:real].mean()), 0.0

    def deciding(votes: int, **how) -> Callable[[], tuple[float, float]]:
        def program():
            found = thinker.decide(batch, votes=votes, **how)
            before = found.thought[:real] + marker
            # The slowest vote is waited for.
            return float(found.lengths[:real].sum(axis=2).mean()), float(before.max(axis=2).mean())

        return program

    programs = {("answer only", 1): answering}
    programs["decide, answer", 1] = deciding(1, thought_tokens=0)
    if protocol.thought_tokens:
        programs["think, decide, answer", 1] = deciding(1)
        if s.thinking.votes > 1:
            programs["think, decide, answer", s.thinking.votes] = deciding(s.thinking.votes)
    made = {key: program() for key, program in programs.items()}  # compiles
    seconds = {key: [] for key in programs}
    for _ in range(s.interventions.cost_rounds):
        for key, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[key].append(time.perf_counter() - start)
    base = np.median(seconds["answer only", 1])
    if s.thinking.series != "none":
        # A second pass is a direct one, after the first.
        first = ("think, decide, answer", 1) if protocol.thought_tokens else ("decide, answer", 1)
        key, again = ("twice, where partial", 1), ("decide, answer", 1)
        made[key] = (made[first][0] + made[again][0], made[first][0] + made[again][1])
        seconds[key] = [a + b for a, b in zip(seconds[first], seconds[again], strict=True)]
    rows = []
    for (name, votes), (tokens, before) in made.items():
        ratios = np.array(seconds[name, votes]) / base
        rows.append(
            {
                "program": f"{name}, {votes} votes" if votes > 1 else name,
                "votes": votes,
                "tokens": tokens,
                "before_visible": before,
                "time_ratio": float(np.median(ratios)),
                "low": float(ratios.min()),
                "high": float(ratios.max()),
            }
        )
    run.write_table(COST, pa.Table.from_pylist(rows, SCHEMA))
