"""How many refusals of a run repeat a wording that was trained: `refusal_copies.py RUN...`.

Of the answers to built-in harmful prompts that count as refusals, by exit: the share that has a
trained wording word for word, with the act that was written for its prompt; the share that has one
around any words; and how many wordings were used, with the share of the commonest. Copies say that
a model learned sentences; wordings around other words say that it learned whom to say them to.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxdepth.cli import guarded
from jaxdepth.prompts.datasets import HARMFUL, read_acts
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.judging.kept import read_answers
from jaxdepth.study.run_directory import read_frame
from jaxdepth.tune.tasks import read_wordings

ACT, OFFER = "{act}", "{offer}"
_WORDS = r"\S+(?: \S+){0,19}?"


class Copies(NamedTuple):
    """How refusals use the wordings of training."""

    refusals: int
    verbatim: int  # with the act that was written for the prompt
    wordings: Counter[str]  # of those that have one around any words

    @property
    def framed(self) -> int:
        """How many have a wording around any words."""
        return self.wordings.total()


def count_copies(refusals: Iterable[tuple[str, str | None]], wordings: Iterable[str]) -> Copies:
    """Count the refusals that have a wording.

    Args:
        refusals: texts, each with the act that its prompt asks for, if one was written.
        wordings: sentences with `{act}` in them, and some with `{offer}`.
    """
    frames = {wording: _pattern(wording) for wording in wordings}
    total = verbatim = 0
    used = Counter[str]()
    for text, act in refusals:
        plain = _plain(text)
        total += 1
        # Of several that fit, the one that says most by itself.
        fitting = sorted((w for w, frame in frames.items() if frame.search(plain)), key=len)
        used.update(fitting[-1:])
        verbatim += act is not None and any(_pattern(w, act).search(plain) for w in fitting)
    return Copies(total, verbatim, used)


def _pattern(wording: str, act: str | None = None) -> re.Pattern[str]:
    """A wording with an act, or with at most 20 words in its place, and so many in an offer's."""
    fill = {ACT: _WORDS if act is None else re.escape(_plain(act)), OFFER: _WORDS}
    pieces = re.split(f"({ACT}|{OFFER})", _plain(wording))
    return re.compile(r"(?<!\w)" + "".join(fill.get(p) or re.escape(p) for p in pieces))


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


def main() -> int:
    """Print a line for each exit of each run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    wordings, acts = [row["text"] for row in read_wordings()], read_acts()
    for run in parser.parse_args().runs:
        prompts = read_frame(run, PROMPTS)[["prompt_id", "text", "label"]]
        answers = read_answers(run).merge(prompts, on="prompt_id", suffixes=("", "_of_prompt"))
        is_refusal = (answers["outcome"] == Outcome.REFUSE) & (answers["label"] == HARMFUL)
        for exit_layer, rows in answers[is_refusal].groupby("exit"):
            asked = rows["text_of_prompt"].map(acts.get)
            copies = count_copies(zip(rows["text"], asked, strict=True), wordings)
            most = "".join(
                f", {wording!r} in {times / copies.refusals:.0%}"
                for wording, times in copies.wordings.most_common(1)
            )
            print(
                f"{run.name}, exit {exit_layer}: of {copies.refusals} refusals "
                f"{copies.verbatim / copies.refusals:.0%} have a trained wording word for word, "
                f"{copies.framed / copies.refusals:.0%} one around any words "
                f"({len(copies.wordings)} wordings{most})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
