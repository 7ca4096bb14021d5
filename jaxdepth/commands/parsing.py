"""Command lines and settings files become settings: tyro over the dataclasses of each command."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_type_hints

import tyro

from jaxdepth.errors import InputError, nearest
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.profiling import start_profile
from jaxdepth.settings_file import build, field_help, flatten, read_settings

S = TypeVar("S")

# name -> settings class; `jaxdepth.commands.NAME`, or the module below, has the function `run` that
# takes them.
COMMANDS = {
    "convert": "jaxdepth.weights.settings:Convert",
    "inspect": "jaxdepth.weights.settings:Inspect",
    "export": "jaxdepth.weights.settings:Export",
    "sweep": "jaxdepth.study.policies.settings:PolicySweep",
    "decide": "jaxdepth.study.verdicts.settings:Decide",
    "serve": "jaxdepth.serving.settings:Serve",
    "evaluate": "jaxdepth.benchmarks.settings:Evaluate",
    "export-logs": "jaxdepth.benchmarks.settings:ExportLogs",
    "judge": "jaxdepth.study.judging.settings:Rejudge",
    "label": "jaxdepth.study.labelling.settings:Label",
    "certify": "jaxdepth.study.certificates.settings:Certify",
    "check": "jaxdepth.study.certificates.settings:Check",
    "report": "jaxdepth.study.report.settings:Report",
    "probe": "jaxdepth.study.checkpoints.settings:ProbeAgainst",
    "tune": "jaxdepth.study.tuning.settings:Tune",
    "bench": "jaxdepth.study.planning.settings:Bench",
    "plan": "jaxdepth.study.planning.settings:Plan",
}
_IN_FOLDERS = {
    "certify": "certificates.certify",
    "check": "certificates.check",
    "evaluate": "benchmarks.evaluate",
    "export-logs": "benchmarks.export_logs",
}
ABOUT = """\
Measure what truncation does to a language model's safety, at every exit at once. An exit is the
number of layers that run before the final norm and head.

Start with `jaxdepth convert SOURCE TARGET`, then `jaxdepth sweep MODEL`. After a command, --config
NAME reads settings from a TOML file, or from one in configs/ by its name; --quiet prints warnings
and errors only."""
QUIET = "--quiet"
_MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


class Command(NamedTuple):
    """A parsed command line."""

    name: str
    settings: Any
    run: Callable[[Any], int]  # returns the exit status
    quiet: bool = False


def parse_command(argv: Sequence[str]) -> Command:
    """Parse the arguments of `jaxdepth`.

    Raises:
        InputError: no such command, or a settings file that cannot be read.
        SystemExit: with status 0 after --help, 2 after an error that tyro has printed.
    """
    words, config = take_config(list(argv))
    quiet, words = QUIET in words, [word for word in words if word != QUIET]
    place = next((n for n, word in enumerate(words) if not word.startswith("-")), None)
    if place is None or "--tyro-print-completion" in words:
        if config is not None:
            raise InputError("--config goes after a command; try --help")
        _cli(_all_commands(), ABOUT, "jaxdepth", words or ["--help"])
        raise InputError("no command is given; try --help")
    name = words.pop(place)
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{nearest(name, COMMANDS)}; try --help")
    settings: Any = parse(settings_class(name), words, f"jaxdepth {name}", config)
    module = importlib.import_module(f"jaxdepth.commands.{_IN_FOLDERS.get(name, name)}")
    return Command(name, settings, module.run, quiet)


def parse(cls: type[S], argv: Sequence[str], program: str, config: str | None = None) -> S:
    """Parse settings: the command line over `--config` (or `config`) over the defaults."""
    words, name = take_config(list(argv))
    about = (
        f"{inspect.getdoc(cls)} Settings can also come from a file: --config NAME. Warnings and "
        "errors only: --quiet."
    )
    settings: Any = _cli(cls, about, program, words, default=_defaults(cls, name or config))
    check_ranges(settings)
    start_profile(flatten(settings).get("profile"))
    return settings


def _cli(type_, about: str, program: str, words: Sequence[str], **default):
    with _plain_where_no_color():
        return tyro.cli(
            type_, prog=program, description=about, args=words, config=_MARKERS, **default
        )


def _all_commands():
    """The union of all subcommands, for the top-level help and shell completion."""
    subcommands = []
    for name in COMMANDS:
        cls = settings_class(name)
        named = tyro.conf.subcommand(name, default=_defaults(cls), description=cls.__doc__)
        subcommands.append(Annotated[cls, named])
    return Union[tuple(subcommands)]  # noqa: UP007 (made of a list)


def settings_class(name: str) -> type:
    """The settings of a command."""
    module, _, cls = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def _defaults(cls: type[S], config: str | None = None) -> S:
    """The default settings, those of a file over those of the class; required ones are missing."""
    values = read_settings(cls, config) if config else {}
    _describe(cls)
    return build(cls, values, missing=tyro.MISSING)


def _describe(cls: type) -> None:
    """Give each field its help on one line: tyro would keep the source's line breaks."""
    texts, types_of = field_help(cls), get_type_hints(cls)
    for field in fields(cls):
        if is_dataclass(types_of[field.name]):
            _describe(types_of[field.name])
        elif field.name in texts:
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})


@contextmanager
def _plain_where_no_color() -> Iterator[None]:
    """Keep help without colour where NO_COLOR asks for that (https://no-color.org)."""
    terminal = os.environ.get("TERM")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal


def take_config(argv: list[str]) -> tuple[list[str], str | None]:
    """Split `--config NAME` from the other words of a command line."""
    for place, word in enumerate(argv):
        if word == "--config":
            if place + 1 == len(argv):
                raise InputError("--config needs the name of a settings file")
            return argv[:place] + argv[place + 2 :], argv[place + 1]
        if word.startswith("--config="):
            return argv[:place] + argv[place + 1 :], word.removeprefix("--config=")
    return argv, None
