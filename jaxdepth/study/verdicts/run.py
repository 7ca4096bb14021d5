"""`jaxdepth decide`: at every exit a thought, a verdict and an answer to each prompt.

verdicts.parquet   the verdict of each vote
texts.parquet      its thought and answer
cuts.parquet       verdicts after truncated thoughts
forced.parquet     answers after each of the three verdicts
swapped.parquet    verdicts after the thought of another prompt
series.parquet     a second pass over the prompts whose verdict was PARTIAL
cost.parquet       tokens and time of thinking
"""

from collections.abc import Sequence
from typing import Any

from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import Judge
from jaxdepth.refusal.protocol import Verdict
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.study.answers import warn_non_finite
from jaxdepth.study.batched import in_parts
from jaxdepth.study.chosen_judge import choose_judge
from jaxdepth.study.common_tables import one_row_each
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.verdicts.batches import batch_tables, decide_batch, repeat_batch, swap_batch
from jaxdepth.study.verdicts.cost import write_cost
from jaxdepth.study.verdicts.decider import Decider, open_decider
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.verdicts.tables import CUTS, FORCED, SERIES, SWAPPED, TEXTS, VERDICT_TABLE


@one_at_a_time(lambda settings: settings.output.out)
def run_decide(settings: Decide, bar: ProgressBar = silent, judge: Judge | None = None) -> Run:
    """Run `jaxdepth decide`: write the tables above; resume an unfinished run.

    Args:
        settings: see `jaxdepth decide --help`.
        bar: shows progress; see `jaxdepth.runtime.progress.progress_bar`.
        judge: judges the outcomes of answers in place of that of the settings; see
            `classify_texts`.

    Raises:
        InputError: something in the settings, the protocol, the prompts, the judge or the
            checkpoint is wrong.
    """
    chosen = choose_judge(settings.texts, judge, settings.output.out)
    decider = open_decider(settings, chosen.judge)
    chosen.read_labels(decider.subject.prompts)
    subject, protocol, markers = decider.subject, decider.protocol, decider.markers
    ids = decider.encode(protocol.instruction)
    new_tokens = protocol.thought_tokens + len(markers.close) + 1 + protocol.answer_tokens
    batches = subject.batches(ids, new_tokens)
    if settings.thinking.series != "none":
        _series_batches(decider, range(len(subject.prompts)))  # an error now, not after the work
    resolved = subject.resolved(
        command="decide", protocol=protocol.record(), verdict_words=markers.words, **chosen.resolved
    )
    run = subject.open_run(resolved, markers=markers._asdict())
    names = [table.name for table in batch_tables(decider)]
    in_parts(run, names, batches, lambda batch: decide_batch(decider, batch), bar)
    if settings.interventions.swap and settings.texts.keep_text and protocol.thought_tokens:
        _write_swapped(run, decider, batches, bar)
    if settings.thinking.series != "none":
        _write_series(run, decider, bar)
    chosen.warn(run.path)
    warn_non_finite(run, VERDICT_TABLE, CUTS, FORCED, SWAPPED, SERIES)
    write_cost(run, decider, batches[0])
    return run


def _write_swapped(run: Run, decider: Decider, batches: Sequence[Batch], bar: ProgressBar) -> None:
    """Write swapped.parquet."""
    if run.finished(SWAPPED.name):
        return
    texts, ids = read_frame(run.path, TEXTS), [p.prompt_id for p in decider.subject.prompts]
    thoughts: dict[tuple[str, int], Any] = {}
    for exit_layer in run.record["settings"]["exits"]:
        first = texts[(texts["vote"] == 0) & (texts["exit"] == exit_layer)]
        rows = one_row_each(first, ids, f"{run.path}: the table {TEXTS.name} at exit {exit_layer}")
        thoughts |= {(name, exit_layer): kept for name, kept in rows["thought_ids"].items()}
    donors = choose_donors(decider.subject.prompts)
    in_parts(run, [SWAPPED.name], batches, lambda b: swap_batch(decider, b, thoughts, donors), bar)


def choose_donors(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Choose the prompt whose thought each prompt gets: the other prompt of its pair, if any.

    Else it is the next prompt with the other label, whose thought argues for the other verdict if
    for any; with one label only, the next prompt.
    """
    donors = {}
    for place, prompt in enumerate(prompts):
        others = [*prompts[place + 1 :], *prompts[:place]] or [prompt]
        same_pair = [p for p in others if p.pair_id and p.pair_id == prompt.pair_id]
        other_label = [p for p in others if p.label != prompt.label]
        donors[prompt.prompt_id] = (same_pair or other_label or others)[0].prompt_id
    return donors


def _write_series(run: Run, decider: Decider, bar: ProgressBar) -> None:
    """Write series.parquet."""
    if run.finished(SERIES.name):
        return
    verdicts = read_frame(run.path, VERDICT_TABLE)
    is_partial = (verdicts["vote"] == 0) & (verdicts["verdict"] == Verdict.PARTIAL)
    partial = verdicts.loc[is_partial, ["prompt_id", "exit"]]
    if partial.empty:
        run.write_table(SERIES.name, SERIES.empty())
        return
    names = set(partial["prompt_id"])
    indices = [n for n, p in enumerate(decider.subject.prompts) if p.prompt_id in names]
    batches = _series_batches(decider, indices)
    keys = set(partial.itertuples(index=False, name=None))
    in_parts(run, [SERIES.name], batches, lambda b: repeat_batch(decider, b, keys), bar)


def _series_batches(decider: Decider, indices: Sequence[int]) -> list[Batch]:
    """Batches of prompts under the instruction of the second pass; errors as `Subject.batches`."""
    new_tokens = len(decider.markers.close) + 1 + decider.protocol.answer_tokens
    return decider.subject.batches(decider.encode(decider.protocol.again), new_tokens, indices)
