"""The judge of a study: a function that is handed in, or the one that the settings name."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.judges.identity import UnknownIdentity, identity_of
from jaxdepth.judges.open import BUILTIN, open_judge
from jaxdepth.judges.verdict import NamedJudge
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import BUILT_IN, Judge
from jaxdepth.runtime.distributed import is_first, raise_on_all
from jaxdepth.study.run_directory import RUN_FILE
from jaxdepth.study.settings import Texts


@dataclass(frozen=True)
class ChosenJudge:
    """A judge, and how run.json names it."""

    judge: Judge | None  # None: the built-in rule
    name: str
    identity: str | None  # a digest of its code or weights

    @property
    def resolved(self) -> dict[str, str | None]:
        """The settings that stand for it: a run is resumed only by the same judge."""
        if self.judge is None:
            return {"judge": self.name}
        return {"judge": self.name, "judge_identity": self.identity}

    def read_labels(self, prompts: Iterable[Prompt]) -> None:
        """Let a judge that asks about harmful prompts only know which are."""
        if isinstance(self.judge, NamedJudge):
            self.judge.read_labels(prompts)

    def warn(self) -> None:
        """Say in one line how many answers the judge gave no verdict on."""
        line = self.judge.warning() if isinstance(self.judge, NamedJudge) else ""
        if line and is_first():
            print(f"jaxdepth: warning: {line}", file=sys.stderr)


def choose_judge(texts: Texts, judge: Judge | None, out: Path) -> ChosenJudge:
    """The judge of a study.

    Args:
        texts: the settings, whose `judge` names one.
        judge: a function in its place; None opens that of the settings.
        out: the run directory.

    Raises:
        InputError: both are given, the named one cannot be opened, or the run has begun and the
            function cannot be known to be the same.
    """
    if judge is None:
        opened = _open_on_all(texts.judge)
        if opened is None:
            return ChosenJudge(None, BUILT_IN, None)
        return ChosenJudge(opened, opened.name, opened.identity)
    if texts.judge != BUILTIN:
        raise InputError(f"two judges: the function that was passed and {texts.judge}: drop one")
    if isinstance(judge, NamedJudge):
        return ChosenJudge(judge, judge.name, judge.identity)
    name = getattr(judge, "__qualname__", type(judge).__qualname__)
    try:
        return ChosenJudge(judge, name, identity_of(judge))
    except UnknownIdentity as unknown:
        if (out / RUN_FILE).is_file():
            raise InputError(
                f"{out} holds a run, and whether {name} judged it cannot be known: it depends on "
                f"{unknown}, which has no digest. Set its attribute `identity`, or name another out"
            ) from None
        return ChosenJudge(judge, name, None)


def _open_on_all(spec: str) -> NamedJudge | None:
    """Open a judge in every process; raises InputError on all if it is raised on one."""
    judge, error = None, None
    try:
        judge = open_judge(spec)
    except InputError as raised:
        error = raised
    raise_on_all(error)
    return judge
