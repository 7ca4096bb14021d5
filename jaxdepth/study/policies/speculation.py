"""Self-speculative decoding by draft depth: how often drafts are right, by kind of prompt.

The text is full depth's, whatever the draft: nothing of its safety is lost, and what is measured is
how much of it the first layers know beforehand.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jaxdepth.depth.speculative import sequential_layers, speculate
from jaxdepth.prompts.batches import Batch, make_batches
from jaxdepth.prompts.datasets import cluster_of
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.stats.intervals import interval, resample_counts
from jaxdepth.study.answers import memory_budget
from jaxdepth.study.batched import OnHost, in_parts
from jaxdepth.study.run_directory import Run, read_table
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.settings import Sweep

SPECULATION, ACCEPTANCE = "speculation", "acceptance"
SPECULATION_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("draft_depth", pa.int32()),
        ("n_tokens", pa.int32()),
        ("rounds", pa.int32()),
        ("drafted", pa.int32()),
        ("accepted", pa.int32()),
        ("passes", pa.int32()),  # layers one after the other, after the prompt's
    ]
)
ACCEPTANCE_SCHEMA = pa.schema(
    [
        ("draft_depth", pa.int32()),
        ("label", pa.string()),
        ("metric", pa.string()),  # accepted: share of drafted tokens; passes: of full depth's
        ("n", pa.int32()),  # prompts that drafted
        ("value", pa.float64()),
        ("low", pa.float64()),  # 95%, bootstrap of whole pairs
        ("high", pa.float64()),
    ]
)


def write_speculation(
    run: Run,
    subject: Subject,
    settings: Sweep,
    depths: Sequence[int],
    draft_tokens: int,
    bar: ProgressBar,
) -> None:
    """Writes speculation.parquet; goes on where an earlier run was stopped."""
    ids, batch_size = subject.prompt_ids(), settings.prompts.batch_size

    def rows(batch: Batch) -> OnHost:
        found = speculate(
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
        passes_BE = sequential_layers(depths, found.rounds, found.drafted, layers)
        table = [
            {
                "prompt_id": subject.prompts[batch.indices[b]].prompt_id,
                "draft_depth": depth,
                "n_tokens": int(found.lengths[b, e]),
                "rounds": int(found.rounds[b, e]),
                "drafted": int(found.drafted[b, e]),
                "accepted": int(found.accepted[b, e]),
                "passes": int(passes_BE[b, e]),
            }
            for b in range(len(batch.indices))
            for e, depth in enumerate(depths)
        ]
        return lambda: [pa.Table.from_pylist(table, SPECULATION_SCHEMA)]

    in_parts(run, (SPECULATION,), make_batches(ids, batch_size, subject.model.mesh), rows, bar)


def acceptance_rows(run: Run, prompts: Sequence[dict], layers: int, seed: int = 0) -> list[dict]:
    """Shares by draft depth and label, of some prompts: sums over prompts, divided.

    Args:
        run: with speculation.parquet.
        prompts: rows of its prompts table; others are left out.
        layers: of the model.
        seed: of the bootstrap.
    """
    told = {p["prompt_id"]: p for p in prompts}
    # Who said one token had nothing to draft.
    rows = [
        r for r in read_table(run.path, SPECULATION).to_pylist()
        if r["prompt_id"] in told and r["n_tokens"] > 1
    ]  # fmt: skip
    found = []
    for depth in sorted({r["draft_depth"] for r in rows}):
        for label in sorted({p["label"] for p in prompts}):
            mine = [
                r for r in rows
                if r["draft_depth"] == depth and told[r["prompt_id"]]["label"] == label
            ]  # fmt: skip
            if not mine:
                continue
            pairs = [cluster_of(told[r["prompt_id"]]) for r in mine]
            counts_RN = np.vstack([np.ones(len(mine)), resample_counts(pairs, seed=seed)])
            of_N = {name: np.array([r[name] for r in mine], float) for name in mine[0] if
                    name not in ("prompt_id", "draft_depth")}  # fmt: skip
            for metric, top_N, bottom_N in (
                ("accepted", of_N["accepted"], of_N["drafted"]),
                ("passes", of_N["passes"], layers * (of_N["n_tokens"] - 1)),
            ):
                with np.errstate(invalid="ignore"):
                    share_R = (counts_RN @ top_N) / (counts_RN @ bottom_N)
                low, high = interval(share_R[1:, None])
                found.append(
                    {"draft_depth": depth, "label": label, "metric": metric, "n": len(mine)}
                    | {"value": float(share_R[0]), "low": float(low[0]), "high": float(high[0])}
                )
    return found


def acceptance_findings(rows: Sequence[dict]) -> list[str]:
    """The draft depth with the fewest passes, by label, and how the labels differ there."""
    lines = []
    for label in dict.fromkeys(r["label"] for r in rows):
        passes = [r for r in rows if (r["label"], r["metric"]) == (label, "passes")]
        best = min(passes, key=lambda r: r["value"])
        (right,) = (
            r for r in rows
            if (r["label"], r["metric"], r["draft_depth"])
            == (label, "accepted", best["draft_depth"])
        )  # fmt: skip
        lines.append(
            f"Self-speculation on {label} prompts: {best['value']:.2f} [{best['low']:.2f}, "
            f"{best['high']:.2f}] of full depth's layer passes, drafting with "
            f"{best['draft_depth']} layers (the best depth on these prompts); "
            f"{right['value']:.0%} [{right['low']:.0%}, {right['high']:.0%}] of drafted tokens are "
            "accepted."
        )
    return lines
