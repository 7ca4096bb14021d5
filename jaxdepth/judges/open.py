"""Judges by name, as `--judge` takes them."""

from collections.abc import Iterable
from pathlib import Path

from jaxdepth.errors import InputError, nearest
from jaxdepth.judges.endpoint import open_endpoint
from jaxdepth.judges.guard import open_guard
from jaxdepth.judges.harmbench import harmbench
from jaxdepth.judges.llamaguard import llamaguard
from jaxdepth.judges.own import open_own
from jaxdepth.judges.sorrybench import sorrybench
from jaxdepth.judges.verdict import NamedJudge
from jaxdepth.judges.wildguard import wildguard
from jaxdepth.prompts.datasets import Prompt

BUILTIN = "builtin"
GUARDS = {
    "wildguard": wildguard,
    "harmbench": harmbench,
    "sorrybench": sorrybench,
    "llamaguard": llamaguard,
}
FORMS = (
    BUILTIN,
    *(f"{kind}:PATH" for kind in GUARDS),
    "openai:MODEL@URL",
    "python:FILE.py:function",
)


def open_judge(spec: str, prompts: Iterable[Prompt] = ()) -> NamedJudge | None:
    """The judge of a spec; None for the built-in one.

    Args:
        spec: one of `FORMS`.
        prompts: those whose answers it will judge; two guards ask about harmful ones only.

    Raises:
        InputError: no such judge, its file or checkpoint is missing or of another kind, or its
            endpoint does not answer.
    """
    check_spec(spec)
    kind, _, rest = spec.partition(":")
    if kind == BUILTIN:
        return None
    if kind == "openai":
        judge: NamedJudge = open_endpoint(rest)
    elif kind == "python":
        judge = open_own(rest)
    else:
        judge = open_guard(Path(rest), GUARDS[kind])
    judge.read_labels(prompts)
    return judge


def check_spec(spec: str) -> None:
    """Raise InputError unless a spec has one of the forms of `FORMS`."""
    kind, colon, rest = spec.partition(":")
    kinds = [form.partition(":")[0] for form in FORMS]
    if kind not in kinds:
        raise InputError(f"no judge {spec!r}{nearest(kind, kinds)}; there are {', '.join(FORMS)}")
    if (kind == BUILTIN) == bool(colon) or (kind != BUILTIN and not rest):
        expected = next(form for form in FORMS if form.partition(":")[0] == kind)
        raise InputError(f"no judge {spec!r}: expected {expected}")
