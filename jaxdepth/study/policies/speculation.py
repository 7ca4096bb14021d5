"""Self-speculative decoding by draft depth: how often drafts are accepted, by label.

The answer is full depth's, whatever the draft depth: truncation changes no outcome here. What is
measured is how much of the answer the first layers predict.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxdepth.depth.speculative import sequential_layers, speculate
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import interval, resample_counts
from jaxdepth.study.answers import memory_budget
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.policies.tables import ACCEPTANCE, SPECULATION
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.settings import Sweep


def write_speculation(
    run: Run,
    subject: Subject,
    settings: Sweep,
    depths: Sequence[int],
    draft_tokens: int,
    bar: ProgressBar,
) -> None:
    """Write speculation.parquet; resume an unfinished run."""

    def speculate_batch(batch: Batch) -> OnHost:
        speculation = speculate(
            subject.model,
            batch.tokens_BS,
            batch.lengths_B,
            depths,
            settings.answers.max_new_tokens,
            draft_tokens=draft_tokens,
            stop_tokens=subject.end_tokens,
            memory_budget=memory_budget(settings.decoding),
        )
        layers = subject.model.config.num_hidden_layers
        arrays_BE = {
            "n_tokens": speculation.lengths,
            "rounds": speculation.rounds,
            "drafted": speculation.drafted,
            "accepted": speculation.accepted,
            "passes": sequential_layers(depths, speculation.rounds, speculation.drafted, layers),
        }
        ids = [subject.prompts[index].prompt_id for index in batch.indices]
        columns = {"prompt_id": np.repeat(ids, len(depths))}
        columns["draft_depth"] = np.tile(depths, len(ids))
        # Padding rows come last.
        columns |= {name: array_BE[: len(ids)].ravel() for name, array_BE in arrays_BE.items()}
        return lambda: [SPECULATION.from_columns(columns)]

    batches = make_batches(subject.prompt_ids(), settings.prompts.batch_size, subject.model.mesh)
    in_parts(run, (SPECULATION.name,), batches, speculate_batch, bar)


def acceptance_rates(run: Run, prompts: pd.DataFrame, layers: int, seed: int = 0) -> pd.DataFrame:
    """Shares by draft depth and label, sums over prompts divided: the acceptance table.

    Args:
        run: with speculation.parquet.
        prompts: some rows of its prompts table; other prompts are left out.
        layers: of the model.
        seed: of the bootstrap.
    """
    answers = read_frame(run.path, SPECULATION.name).merge(prompts, on="prompt_id")
    answers = answers[answers["n_tokens"] > 1]  # after a single token there is nothing to draft
    rows = []
    for (depth, label), group in answers.groupby(["draft_depth", "label"]):
        clusters_N = group["pair_id"].fillna(group["prompt_id"])
        counts_KN = np.vstack([np.ones(len(group)), resample_counts(clusters_N, seed=seed)])
        for metric, part_N, whole_N in (
            ("accepted", group["accepted"].to_numpy(), group["drafted"].to_numpy()),
            ("passes", group["passes"].to_numpy(), layers * (group["n_tokens"].to_numpy() - 1)),
        ):
            with np.errstate(invalid="ignore"):
                share_K = (counts_KN @ part_N) / (counts_KN @ whole_N)
            low, high = interval(share_K[1:, None])
            rows.append(
                {"draft_depth": depth, "label": label, "metric": metric, "n": len(group)}
                | {"value": share_K[0], "low": low[0], "high": high[0]}
            )
    return pd.DataFrame(rows, columns=ACCEPTANCE.schema.names)


def acceptance_findings(acceptance: pd.DataFrame) -> list[str]:
    """A sentence for each label: the draft depth with the fewest layer passes."""
    lines = []
    for label, group in acceptance.groupby("label", sort=False):
        accepted = group[group["metric"] == "accepted"].set_index("draft_depth")
        passes = group[group["metric"] == "passes"].set_index("draft_depth")
        best = passes["value"].idxmin()
        lines.append(
            f"Self-speculation on {label} prompts: {Estimate.from_row(passes.loc[best]):.2f} of "
            f"full depth's layer passes, drafting with {best} layers (the best depth on these "
            f"prompts); {Estimate.from_row(accepted.loc[best]):.0%} of drafted tokens are accepted."
        )
    return lines
