"""Self-speculative decoding by draft depth: how often drafts are accepted, by label.

The answer is full depth's, whatever the draft depth: truncation changes no outcome here. What is
measured is how much of the answer the first layers predict.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdepth.depth.speculative import sequential_layers, speculate
from jaxdepth.prompts.batches import Batch
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.stats.bands import mean_band
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.resampled import UNIT, resampled_bounds
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

    batches = subject.batches(subject.prompt_ids(), settings.answers.max_new_tokens)
    in_parts(run, (SPECULATION.name,), batches, speculate_batch, bar)


def acceptance_rates(run: Run, prompts: pd.DataFrame, layers: int, seed: int = 0) -> pd.DataFrame:
    """Shares by draft depth and label, sums over prompts divided: the acceptance table.

    Args:
        run: with speculation.parquet.
        prompts: some rows of its prompts table; other prompts are left out.
        layers: of the model.
        seed: of the bootstrap.
    """
    answers = read_frame(run.path, SPECULATION).merge(prompts, on="prompt_id")
    answers = answers[answers["n_tokens"] > 1]  # after a single token there is nothing to draft
    answers["cluster"] = answers["pair_id"].fillna(answers["prompt_id"])
    answers["layers"] = layers * (answers["n_tokens"] - 1)
    parts = []
    for label, of_label in answers.groupby("label"):
        groups = dict(list(of_label.groupby("draft_depth")))
        for metric, part, whole in (
            ("accepted", "accepted", "drafted"),
            ("passes", "passes", "layers"),
        ):
            shares = [_shares(group, part, whole, seed) for group in groups.values()]
            value_X = np.array([value for value, _ in shares])
            resampled_KX = np.stack([resampled_K for _, resampled_K in shares], axis=1)
            clusters = of_label["cluster"].nunique()
            value_range = UNIT if metric == "accepted" else None
            low_X, high_X = resampled_bounds(value_X, resampled_KX, clusters, value_range)
            band_low_X, band_high_X = mean_band(value_X, resampled_KX, clusters)
            columns = {"draft_depth": list(groups), "label": label, "metric": metric}
            columns |= {"n": [len(group) for group in groups.values()], "value": value_X}
            columns |= {"low": low_X, "high": high_X}
            columns |= {"band_low": band_low_X, "band_high": band_high_X}
            parts.append(pd.DataFrame(columns))
    columns = ACCEPTANCE.schema.names
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def _shares(
    answers: pd.DataFrame, part: str, whole: str, seed: int
) -> tuple[float, Float[np.ndarray, " K"]]:
    """The sum of one column over that of another, and the same in resamples of whole pairs."""
    counts_KN = np.vstack([np.ones(len(answers)), resample_counts(answers["cluster"], seed=seed)])
    with np.errstate(invalid="ignore"):
        share_K = (counts_KN @ answers[part].to_numpy()) / (counts_KN @ answers[whole].to_numpy())
    return float(share_K[0]), share_K[1:]


def acceptance_findings(acceptance: pd.DataFrame) -> list[str]:
    """A sentence for each label: the draft depth with the fewest layer passes."""
    lines = []
    for label, group in acceptance.groupby("label", sort=False):
        accepted = group[group["metric"] == "accepted"].set_index("draft_depth")
        passes = group[group["metric"] == "passes"].set_index("draft_depth")
        best = passes["value"].idxmin()
        fewest, share = (
            Estimate(row["value"], row["band_low"], row["band_high"], n=int(row["n"]))
            for row in (passes.loc[best], accepted.loc[best])
        )
        lines.append(
            f"Self-speculation on {label} prompts: at best {fewest:.2f} of full depth's layer "
            f"passes, drafting with {best} layers; {share:.0%} of drafted tokens are accepted. The "
            f"depth is the best of {len(passes)} on these prompts: the bounds (95% band) hold for "
            "all of them at once."
        )
    return lines
