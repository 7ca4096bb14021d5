"""Numbers among settings: each has a range, and what is out of it is refused before any work."""

import math
import typing
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated

import pytest

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.commands.parsing import COMMANDS, settings_class
from jaxdepth.ranges import COUNT, MAX_INT, Range, check_ranges, ranges_of
from jaxdepth.settings_file import build
from jaxdepth.study.certificates.settings import CertifiedExit
from jaxdepth.study.checkpoints.settings import Backfire
from jaxdepth.study.comparison.settings import Alignment, Study
from jaxdepth.study.policies.settings import StaticOrDynamic
from jaxdepth.study.probes.settings import Where
from jaxdepth.study.settings import Decoding, Output
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.thinking.settings import ThinkThenDecide

EXPERIMENTS = (Alignment, Backfire, CertifiedExit, StaticOrDynamic, Study, ThinkThenDecide, Where)


def groups(cls):
    """A dataclass of settings, and those within it."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        if is_dataclass(hint):
            yield from groups(hint)


def is_number(hint) -> bool:
    return hint in (int, float) or any(map(is_number, typing.get_args(hint)))


def test_every_number_has_a_range():
    classes = [settings_class(name) for name in COMMANDS] + list(EXPERIMENTS)
    for cls in {group for one in classes for group in groups(one)}:
        hints = typing.get_type_hints(cls)
        numbers = {f.name for f in fields(cls) if is_number(hints[f.name])}
        assert numbers == set(ranges_of(cls)), cls
        check_defaults(cls)


def check_defaults(cls):
    for field in fields(cls):
        if field.name in ranges_of(cls) and isinstance(field.default, int | float):
            ranges_of(cls)[field.name].check(field.name, field.default)


@dataclass
class Some:
    several: Annotated[tuple[int, ...], COUNT] = (1,)
    maybe: Annotated[float, Range(0, 1)] | None = None
    text: str = "-1"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"several": (1, 0)}, "several is 0, expected at least 1"),
        ({"several": (MAX_INT + 1,)}, "several is 2147483648, expected at most 2,147,483,647"),
        ({"maybe": 1.5}, "maybe is 1.5, expected at most 1"),
        ({"maybe": math.nan}, "maybe is nan, expected at least 0"),
        ({"maybe": -math.inf}, "maybe is -inf, expected at least 0"),
    ],
)
def test_what_is_out_of_range(values, says):
    with pytest.raises(InputError) as error:
        check_ranges(Some(**values))
    assert str(error.value) == says


def test_what_is_in_range():
    check_ranges(Some())
    check_ranges(Some(several=(1, MAX_INT), maybe=1))
    Range().check("any", -1e300)
    with pytest.raises(InputError, match="any is inf, expected a finite number"):
        Range().check("any", math.inf)


def test_every_route_checks(tmp_path, capsys):
    """The command line, a settings file, keyword arguments, and settings built by hand."""
    out = tmp_path / "run"
    (tmp_path / "s.toml").write_text("seed = -1\n")
    for words in (["--seed", "-1"], ["--config", str(tmp_path / "s.toml")]):
        assert main(["sweep", "nowhere", "--out", str(out), *words]) == 2
        assert "seed is -1, expected at least 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="top_k is 0, expected at least 1"):
        build(Sweep, {"model": "nowhere", "top_k": 0})
    with pytest.raises(InputError, match="temperature is -1, expected at least 0"):
        check_ranges(Sweep(model="nowhere", decoding=Decoding(temperature=-1), output=Output(out)))
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("decide", "nowhere", "--seed", "-1"),
        ("probe", "nowhere", "--seed", "-1"),
        ("tune", "nowhere", "--seed", "-1"),
        ("judge", "nowhere", "--judge", "builtin", "--seed", "-1"),
        ("label", "nowhere", "--seed", "-1"),
        ("certify", "nowhere", "--seed", "-1"),
        ("serve", "nowhere", "--seed", "-1"),
        ("sweep", "nowhere", "--generate-limit", "0"),
        ("sweep", "nowhere", "--seed", str(2**31)),
        ("sweep", "nowhere", "--steer-scale", "nan"),
        ("serve", "nowhere", "--port", "65536"),
    ],
    ids=" ".join,
)
def test_refused_before_anything_is_read(words, capsys):
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{words[-2].strip('-').replace('-', '_')} is {words[-1]}, expected" in line
