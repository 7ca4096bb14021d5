"""Does a thought before the verdict help? Is it more than a justification? Do votes help?

Tests C13 (the justification is post hoc), C14 (thinking before deciding helps small models) and C15
(votes and a second pass help).

    python experiments/think_then_decide.py MODEL [--only ARM ...] [--adapters ARM-SEED=ADAPTER ...]

Tunes arms alike but for what stands before the verdict: nothing (direct), a thought of its own
(thought), another prompt's thought (same_verdict, any), full stops (filler), or a thought that is
all the verdict reads (bottleneck). All decide on the same prompts at every exit; beside them stands
a probe before any thought. Prints differences with intervals (95%, pairs resampled alike in all
arms), whether what was wanted was reached, and the numbers of each claim. What is not run is
printed as `not run` with the command that runs it. The settings are configs/think_then_decide.toml
by default. The same command resumes a study that was stopped.
"""

import shlex
import sys
from pathlib import Path

import pandas as pd

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.thinking.arms import THOUGHT
from jaxdepth.study.thinking.compare import FINDINGS, compare_arms
from jaxdepth.study.thinking.run import StudyRuns, UnitRun, run_arms
from jaxdepth.study.thinking.settings import ThinkThenDecide
from jaxdepth.study.verdicts.figures import draw_verdicts
from jaxdepth.study.verdicts.score_table import ScoreTable
from jaxdepth.study.verdicts.tables import COST, FORCED, PAIRED

# Below this probability of the three verdict words a verdict is not taken for the model's own.
MIN_MASS = 0.5
CLAIMS = (
    "C13, the justification is post hoc",
    "C14, thinking before deciding helps small models",
    "C15, votes and a second pass help",
)


def describe_post_hoc(scores: ScoreTable, forced: pd.DataFrame, clusters: pd.Series) -> list[str]:
    """C13 (the justification is post hoc): forced verdicts, and verdicts after other thoughts.

    Args:
        scores: of the run.
        forced: rows of the forced table, of one exit and the first votes.
        clusters: the pair of each prompt, by prompt_id.
    """
    lines = [f"{CLAIMS[0]}:"]
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
    lines = [f"{CLAIMS[1]}:"]
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
    lines = [f"{CLAIMS[2]}:"]
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


def describe_claims(runs: StudyRuns) -> list[str]:
    """What the first adapter that thinks shows of the three claims, a line each."""
    first = next((r.path for r in runs.units if r.unit.arm == THOUGHT and r.path), None)
    if first is None:
        return [f"{claim}: not run, it needs arm {THOUGHT}" for claim in CLAIMS]
    scores = ScoreTable(first)
    lines = [*describe_thinking(scores, read_frame(first, PAIRED)), *describe_limits(scores)]
    if runs.votes is None:
        needs = "not run, it needs --votes, --votes-limit and --answer-tokens above 0"
        return [*(f"{claim}: {needs}" for claim in (CLAIMS[0], CLAIMS[2])), *lines]
    sampled = ScoreTable(runs.votes)
    forced = read_frame(runs.votes, FORCED)
    forced = forced[(forced["vote"] == 0) & (forced["exit"] == sampled.exits[-1])]
    prompts = read_frame(runs.votes, PROMPTS).set_index("prompt_id")
    clusters = prompts["pair_id"].fillna(prompts.index.to_series())
    return [
        f"Sampled votes and forced verdicts: {len(prompts)} prompts, {runs.votes}",
        *describe_post_hoc(sampled, forced, clusters),
        *describe_votes(sampled, read_frame(runs.votes, COST)),
        *lines,
    ]


def command_of(argv: list[str]) -> str:
    """The command that was given, without --only and what follows it."""
    words, is_left_out = [], False
    for word in argv:
        if word.startswith("-"):
            is_left_out = word.partition("=")[0] == "--only"
        if not is_left_out:
            words.append(word)
    return f"python experiments/think_then_decide.py {shlex.join(words)}"


def main() -> int:
    """Run the study and print what it shows; return the exit status."""
    argv = sys.argv[1:]
    settings = parse(ThinkThenDecide, argv, "think_then_decide", config="think_then_decide")
    runs = run_arms(settings, progress_bar)
    again, out = command_of(argv), settings.output.out

    def command(run: UnitRun) -> str:
        return f"{again} --only {run.unit.name}"

    lines, figures = compare_arms(runs, out, settings.output.seed, command)
    print("\n".join([*lines, "", *describe_claims(runs)]))
    if runs.votes is not None:
        figures |= draw_verdicts(runs.votes)
    print_places(out, figures)
    print(f"The findings are also in {Path(out) / FINDINGS}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
