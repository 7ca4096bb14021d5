"""Is the justification post hoc, does thinking help, do votes and a second look?

Tests C13 (the justification is post hoc), C14 (thinking before deciding helps small models) and C15
(votes and a second look help).

    python experiments/think_then_decide.py MODEL [any option of `jaxdepth decide`]

Runs configs/think_then_decide.toml on a converted checkpoint and answers each claim with intervals
(95%, bootstrap clustered by pair), and with what this model cannot show. The run is resumed if it
was stopped; its tables and figures are those of `jaxdepth decide`.
"""

import sys

import numpy as np

from jaxdepth.cli import guarded
from jaxdepth.commands import decide
from jaxdepth.commands.parsing import parse
from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.stats.intervals import mcnemar
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.verdicts.cost import COST
from jaxdepth.study.verdicts.run import FORCED
from jaxdepth.study.verdicts.scores import PAIRED, Scores
from jaxdepth.study.verdicts.settings import Decide

# A verdict is taken for the model's own where its three words have this much of the probability.
LEAST_MASS = 0.5


def share(score, place: int) -> str:
    """A score at one exit with its interval."""
    if np.isnan(score.value[place]):
        return "not measured"
    return f"{score.value[place]:.0%} [{score.low[place]:.0%}, {score.high[place]:.0%}]"


def c13(scores: Scores, forced: list[dict], last: int) -> list[str]:
    """Is the justification post hoc? Force the verdict, read it early, swap thoughts."""
    lines = ["C13, the justification is post hoc:"]
    for name in VERDICTS:
        refuses, complies = (
            share(scores.of(f"forced {name}", f"answer_{did}"), last)
            for did in ("refuse", "comply")
        )
        lines.append(
            f"  {name.upper()} forced: the answer refuses in {refuses}, complies in {complies}"
        )
    refused = {
        v: {r["prompt_id"]: r["answer_outcome"] == "refuse" for r in forced if r["forced"] == v}
        for v in ("refuse", "comply")
    }
    only = [
        sum(refused[a][name] and not refused[b][name] for name in refused[a])
        for a, b in (("refuse", "comply"), ("comply", "refuse"))
    ]
    lines.append(
        f"  On the same prompts, only a forced REFUSE makes {only[0]} answers refuse, only a "
        f"forced COMPLY {only[1]} (exact McNemar p = {mcnemar(*only):.3g}): a p below 0.05 says "
        "that the verdict moves the answer"
    )
    early = scores.of("cut 0", "agrees_with_thought")
    lines.append(f"  Before the thought the final verdict is already there in {share(early, last)}")
    swapped = scores.of("swapped", "agrees_with_thought")
    lines.append(f"  Upon the thought of the pair's other half it stays in {share(swapped, last)}")
    return lines


def c14(scores: Scores, paired: list[dict], last: int) -> list[str]:
    """Does think-then-decide help? Balanced accuracy by exit and length of the thought."""
    lines = ["C14, thinking helps small models:"]
    sources = [s for s in scores.sources if s.startswith("cut ")] + ["thought"]
    for e, exit in enumerate(scores.exits):
        cells = [f"{s}: {share(scores.of(s, 'balanced_accuracy'), e)}" for s in sources]
        lines.append(f"  exit {exit}, balanced accuracy: {'; '.join(cells)}")
    for row in paired:
        lines.append(
            f"  exit {row['exit']}: right only with the thought {row['right_only_with_thought']}, "
            f"only without {row['right_only_without']} of {row['n']}, McNemar p = {row['p']:.3g}, "
            f"Holm {row['p_holm']:.3g}"
        )
    over = scores.of("thought", "over_refusal")
    lines.append(f"  Over-refusal at exit {scores.exits[last]}: {share(over, last)}")
    return lines


def c15(scores: Scores, cost: list[dict], last: int) -> list[str]:
    """Do votes and a second look help, and at what cost?"""
    lines = ["C15, votes and series help:"]
    for source in scores.sources:
        if " of " in source or source == "series":
            found = scores.of(source, "balanced_accuracy")
            lines.append(f"  {source}: balanced accuracy {share(found, last)}")
    for row in cost:
        lines.append(
            f"  {row['program']}: {row['tokens']:.0f} tokens, the first visible one after "
            f"{row['before_visible']:.0f}, time {row['time_ratio']:.2f} x answering at once"
        )
    return lines


def limits(scores: Scores, last: int) -> list[str]:
    """What this model cannot show, said of the measured numbers."""
    lines = ["What this run cannot show:"]
    mass = scores.of("thought", "label_mass")
    if mass.value[last] < LEAST_MASS:
        lines.append(
            f"  The verdict words have {mass.value[last]:.0%} of the probability: the model seldom "
            "means to give a verdict, and its choice among them says little about what it knows."
        )
    best = [
        s for s in scores.sources
        if scores.of(s, "balanced_accuracy").low[last] > 0.5
    ]  # fmt: skip
    if not best:
        lines.append(
            "  No way of deciding beats chance at full depth, so nothing that thinking, votes or a "
            "second look could add to a verdict can be seen here."
        )
    lines.append("  One model, one protocol, built-in prompts: nothing about other models.")
    return lines


def main() -> int:
    """Runs the study and prints the answers; returns the exit status."""
    settings = parse(Decide, sys.argv[1:], "think_then_decide", config="think_then_decide")
    status = decide.run(settings)
    out = settings.output.out
    scores = Scores(out)
    last = len(scores.exits) - 1
    forced = [
        r
        for r in read_table(out, FORCED).to_pylist()
        if r["vote"] == 0 and r["exit"] == scores.exits[last]
    ]
    answers = [
        *c13(scores, forced, last),
        *c14(scores, read_table(out, PAIRED).to_pylist(), last),
        *c15(scores, read_table(out, COST).to_pylist(), last),
        *limits(scores, last),
    ]
    print("\n" + "\n".join(answers))
    return status


if __name__ == "__main__":
    sys.exit(guarded(main))
