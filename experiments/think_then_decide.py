"""Is the justification post hoc? Do thinking, votes and a second pass help?

Tests C13 (the justification is post hoc), C14 (thinking before deciding helps small models) and C15
(votes and a second pass help).

    python experiments/think_then_decide.py MODEL [any option of `jaxdepth decide`]

Runs configs/think_then_decide.toml on a converted checkpoint. Prints the numbers for each claim
with intervals (95%, bootstrap clustered by pair), and what this run cannot show. The same command
resumes an unfinished run; its tables and figures are those of `jaxdepth decide`.
"""

import sys

import pandas as pd

from jaxdepth.cli import guarded
from jaxdepth.commands import decide
from jaxdepth.commands.parsing import parse
from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.verdicts.score_table import ScoreTable
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.study.verdicts.tables import COST, FORCED, PAIRED

# Below this probability of the three verdict words a verdict is not taken for the model's own.
MIN_MASS = 0.5


def describe_post_hoc(scores: ScoreTable, forced: pd.DataFrame, clusters: pd.Series) -> list[str]:
    """C13 (the justification is post hoc): forced verdicts, and verdicts after other thoughts.

    Args:
        scores: of the run.
        forced: rows of the forced table, of one exit and the first votes.
        clusters: the pair of each prompt, by prompt_id.
    """
    lines = ["C13, the justification is post hoc:"]
    for verdict in VERDICTS:
        refuses, complies = (
            scores.estimate(f"forced {verdict}", f"answer_{outcome}")[-1]
            for outcome in ("refuse", "comply")
        )
        lines.append(
            f"  {verdict.upper()} forced: the answer refuses in {refuses:.0%}, complies in "
            f"{complies:.0%}"
        )
    forced = forced.assign(refuses=forced["answer_outcome"] == "refuse")
    refuses = forced.pivot(index="prompt_id", columns="forced", values="refuses")
    only_refuse = int((refuses["refuse"] & ~refuses["comply"]).sum())
    only_comply = int((refuses["comply"] & ~refuses["refuse"]).sum())
    p = cluster_mcnemar(refuses["refuse"], refuses["comply"], clusters.loc[refuses.index])
    lines.append(
        f"  On the same prompts, {only_refuse} answers refuse only after a forced REFUSE, "
        f"{only_comply} only after a forced COMPLY (exact McNemar, whole pairs swapped, one test: "
        f"p = {p:.3g}): a p below 0.05 means that the verdict changes the answer"
    )
    early, swapped = (scores.estimate(s, "agrees_with_thought")[-1] for s in ("cut 0", "swapped"))
    lines.append(f"  The verdict before the thought equals the final one in {early:.0%}")
    lines.append(
        "  The verdict after the thought of the pair's other prompt equals that after its own in "
        f"{swapped:.0%}"
    )
    return lines


def describe_thinking(scores: ScoreTable, paired: pd.DataFrame) -> list[str]:
    """C14 (thinking before deciding helps small models): balanced accuracy by length of thought."""
    lines = ["C14, thinking before deciding helps small models:"]
    sources = [*(f"cut {cut}" for cut in scores.cuts), "thought"]
    for e, exit_layer in enumerate(scores.exits):
        cells = [f"{s}: {scores.estimate(s, 'balanced_accuracy')[e]:.0%}" for s in sources]
        lines.append(f"  exit {exit_layer}, balanced accuracy: {'; '.join(cells)}")
    for row in paired.to_dict("records"):
        lines.append(
            f"  exit {row['exit']}: right only with the thought {row['right_only_with_thought']}, "
            f"only without {row['right_only_without']} of {row['n']}, exact McNemar with whole "
            f"pairs swapped: p = {row['p']:.3g}, after Holm over {row['tests']} exits "
            f"{row['p_holm']:.3g}"
        )
    over_refusal = scores.estimate("thought", "over_refusal")[-1]
    lines.append(f"  Over-refusal at exit {scores.exits[-1]}: {over_refusal:.0%}")
    return lines


def describe_votes(scores: ScoreTable, cost: pd.DataFrame) -> list[str]:
    """C15 (votes and a second pass help): balanced accuracy, and cost."""
    lines = ["C15, votes and a second pass help:"]
    for source in scores.sources:
        if " of " in source or source == "series":
            accuracy = scores.estimate(source, "balanced_accuracy")[-1]
            lines.append(f"  {source}: balanced accuracy {accuracy:.0%}")
    for row in cost.itertuples():
        lines.append(
            f"  {row.program}: {row.tokens:.0f} tokens, the first visible one after "
            f"{row.before_visible:.0f}, time {row.time_ratio:.2f} x answering at once"
        )
    return lines


def describe_limits(scores: ScoreTable) -> list[str]:
    """What this run cannot show, from its own numbers."""
    lines = ["What this run cannot show:"]
    mass = scores.estimate("thought", "label_mass").value[-1]
    if mass < MIN_MASS:
        lines.append(
            f"  The verdict words have {mass:.0%} of the probability: the model seldom means to "
            "give a verdict, and its choice among them says little about what it knows."
        )
    accuracies = [scores.estimate(s, "balanced_accuracy") for s in scores.sources]
    if not any(accuracy.low[-1] > 0.5 for accuracy in accuracies):
        lines.append(
            "  No way of deciding beats chance at full depth, so nothing that thinking, votes or a "
            "second pass could add to a verdict can be seen here."
        )
    lines.append("  One model, one protocol, built-in prompts: nothing about other models.")
    return lines


def main() -> int:
    """Run the study and print what it shows; return the exit status."""
    settings = parse(Decide, sys.argv[1:], "think_then_decide", config="think_then_decide")
    status = decide.run(settings)
    out = settings.output.out
    scores = ScoreTable(out)
    forced = read_frame(out, FORCED.name)
    forced = forced[(forced["vote"] == 0) & (forced["exit"] == scores.exits[-1])]
    prompts = read_frame(out, PROMPTS.name).set_index("prompt_id")
    clusters = prompts["pair_id"].fillna(prompts.index.to_series())
    lines = [
        *describe_post_hoc(scores, forced, clusters),
        *describe_thinking(scores, read_frame(out, PAIRED.name)),
        *describe_votes(scores, read_frame(out, COST.name)),
        *describe_limits(scores),
    ]
    print("\n" + "\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(guarded(main))
