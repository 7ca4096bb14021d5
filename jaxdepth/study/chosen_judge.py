"""The judge of a study: a function that is handed in, or the one that the settings name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxdepth.errors import InputError, one_line
from jaxdepth.judges.identity import UnknownIdentity, identity_of
from jaxdepth.judges.open import BUILTIN, open_judge
from jaxdepth.judges.verdict import NamedJudge
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.refusal.outcome import BUILT_IN, Judge, Outcome, ask, rule_identity
from jaxdepth.runtime.distributed import raise_on_all
from jaxdepth.runtime.log import warn
from jaxdepth.study.run_directory import RUN_FILE
from jaxdepth.study.settings import Texts


class Forgiving:
    """A judge whose failure in the middle of a run does not end the run.

    Answers that it fails on are undetermined and counted; `jaxdepth judge` can judge them later. A
    judge that fails at once, before anything is lost, and one whose texts are not kept do end it.
    """

    def __init__(self, judge: Judge, name: str, keeps_texts: bool) -> None:
        self.judge, self.name, self.keeps_texts = judge, name, keeps_texts
        self.judges_topic = bool(getattr(judge, "judges_topic", False))
        self.has_judged, self.failed, self.reason = False, 0, ""

    def __call__(
        self, texts: Sequence[str], prompts: Sequence[str] | None
    ) -> list[Outcome | str | None]:
        try:
            outcomes = ask(self.judge, texts, prompts)
        except Exception as error:  # whatever a user's function raises
            if not (self.has_judged and self.keeps_texts):
                raise
            self.failed += len(texts)
            self.reason = self.reason or one_line(error)
            return [Outcome.UNDETERMINED] * len(texts)
        self.has_judged = True
        return outcomes


@dataclass(frozen=True)
class ChosenJudge:
    """A judge, and how run.json names it."""

    judge: Forgiving | None  # None: the built-in rule
    name: str
    identity: str | None = None  # a digest of its code or weights

    @property
    def resolved(self) -> dict[str, str | None]:
        """The settings that stand for it: a run is resumed only by the same judge and rule."""
        settings: dict[str, str | None] = {"judge": self.name, "outcome_rule": rule_identity()}
        return settings if self.judge is None else settings | {"judge_identity": self.identity}

    def read_labels(self, prompts: Iterable[Prompt]) -> None:
        """Let a judge that asks about harmful prompts only know which are."""
        if self.judge is not None and isinstance(self.judge.judge, NamedJudge):
            self.judge.judge.read_labels(prompts)

    def anew(self) -> "ChosenJudge":
        """The same judge for another run, which counts failures of its own."""
        if self.judge is None:
            return self
        return replace(self, judge=Forgiving(self.judge.judge, self.name, self.judge.keeps_texts))

    def warn(self, out: Path) -> None:
        """Say in a line each how many answers got no verdict, and on how many the judge failed."""
        if self.judge is None:
            return
        lines = []
        if isinstance(self.judge.judge, NamedJudge):
            lines.append(self.judge.judge.warning())
        if self.judge.failed:
            lines.append(
                f"the judge {self.name} failed on {self.judge.failed} answers, which are "
                f"undetermined ({self.judge.reason}): mend it, then `jaxdepth judge {out}`"
            )
        for line in filter(None, lines):
            warn(line)


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
            return ChosenJudge(None, BUILT_IN)
        judge = opened
    elif texts.judge != BUILTIN:
        raise InputError(f"two judges: the function that was passed and {texts.judge}: drop one")
    qualified = getattr(judge, "__qualname__", type(judge).__qualname__)
    name = judge.name if isinstance(judge, NamedJudge) else qualified
    forgiving = Forgiving(judge, name, texts.keep_text)
    try:
        return ChosenJudge(forgiving, name, identity_of(judge))
    except UnknownIdentity as unknown:
        if (out / RUN_FILE).is_file():
            raise InputError(
                f"{out} holds a run, and whether {name} judged it cannot be known: it depends on "
                f"{unknown}, which has no digest. Set its attribute `identity`, or name another out"
            ) from None
        return ChosenJudge(forgiving, name)


def _open_on_all(spec: str) -> NamedJudge | None:
    """Open a judge in every process; raises InputError on all if it is raised on one."""
    judge, error = None, None
    try:
        judge = open_judge(spec)
    except InputError as raised:
        error = raised
    raise_on_all(error)
    return judge
