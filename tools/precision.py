"""Compare outcomes and verdicts in bfloat16 and int8 with those in float32.

    python tools/precision.py MODEL [--adapter builtin:spoken] [--exits 20,24,27-30] [--limit N]

Sweeps held-out prompts and decides on them in each precision (with MODEL in its own precision as
the reference for coherence), and compares them prompt by prompt: differences with 95% intervals of
a bootstrap that resamples whole pairs of prompts. Interrupted runs are continued.
"""

import argparse
from pathlib import Path

import numpy as np

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.settings_file import build
from jaxdepth.stats.intervals import interval, resample_counts
from jaxdepth.study.comparison.outcomes import Compared
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.verdicts.tables import VERDICT_TABLE

BASE = "float32"
PRECISIONS = {
    BASE: {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float32", "int8": True},
    "int8, bfloat16": {"dtype": "bfloat16", "int8": True},
}
PROMPTS = ("builtin:pairs/test", "builtin:pairs/unseen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapter")
    parser.add_argument("--exits", default="20,24,27-30")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    args = parser.parse_args()
    shared = {
        "model": args.model,
        "adapter": args.adapter,
        "prompts": PROMPTS,
        "exits": args.exits,
        "limit": args.limit,
        "reference": args.model,
    }
    runs, verdicts = {}, {}
    for name, how in PRECISIONS.items():
        folder = args.out / name.replace(", ", "-")
        new = {"max_new_tokens": 24}
        settings = build(Sweep, {**shared, **how, **new, "out": folder / "sweep"})
        runs[name] = sweep(settings, progress_bar).path
        lean = {"answer_tokens": 0, "thought_tokens": 24, "cuts": (), "cost_rounds": 0}
        lean |= {"swap": False, "force": False}
        settings = build(Decide, {**shared, **how, **lean, "out": folder / "decide"})
        verdicts[name] = read_table(run_decide(settings, progress_bar).path, VERDICT_TABLE)
    print_outcomes(Compared.read(runs))
    print_verdicts(verdicts)


def print_outcomes(c: Compared) -> None:
    """Print refusal shares, and how often an answer's outcome is the same."""
    full, early = c.exits[-1:], c.exits[:-1]
    print("| weights | prompts | refused at full depth | minus float32 | ", end="")
    print("refused before full depth, minus float32 | same outcome |\n|---|---|---|---|---|---|")
    for name in c.models:
        for group in ("harmful", "harmless"):
            share = c.share(name, group, full[0], Outcome.REFUSE)
            changes = [
                f"{c.difference(name, BASE, group, exits, Outcome.REFUSE):points}"
                for exits in (full, early)
            ]
            a, b = (c.outcomes[c.models.index(m)][0, c.group(group)] for m in (name, BASE))
            cells = [name, group, f"{share:.0%}", *changes, f"{(a == b).mean():.0%}"]
            print(f"| {' | '.join(cells)} |")


def print_verdicts(verdicts) -> None:
    """Print how often the verdict is the same, and by how much P(refuse) differs."""
    order = [("prompt_id", "ascending"), ("exit", "ascending")]
    rows = {name: table.sort_by(order) for name, table in verdicts.items()}
    base = rows[BASE]
    print("\n| weights | same verdict | P(refuse) minus float32, mean | its absolute value, mean |")
    print("|---|---|---|---|")
    for name, table in rows.items():
        same = np.array(table["verdict"]) == np.array(base["verdict"])
        change = np.array(table["p_refuse"]) - np.array(base["p_refuse"])
        counts_RN = resample_counts(np.array(base["prompt_id"]))
        resampled_R = counts_RN @ change / counts_RN.sum(axis=1)
        low, high = interval(resampled_R[:, None])
        print(
            f"| {name} | {same.mean():.0%} | {change.mean():+.3f} [{low[0]:+.3f}, {high[0]:+.3f}] "
            f"| {np.abs(change).mean():.3f} |"
        )


if __name__ == "__main__":
    main()
