"""Settings of each command: frozen dataclasses, from the command line or a file in configs/."""

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.refusal.protocol import Protocol
from jaxdepth.refusal.tokens import DEFAULT_OPENERS


@dataclass(frozen=True)
class Convert:
    """Convert a Hugging Face folder or a GGUF file to a checkpoint."""

    source: tyro.conf.Positional[Path]
    """Folder with config.json and *.safetensors, or a .gguf file."""
    target: tyro.conf.Positional[Path]
    """Folder to make. If it already holds this source, nothing is done."""
    tokenizer: bool = True
    """Take the tokenizer along; without it, prompts cannot be read."""


@dataclass(frozen=True)
class Sweep:
    """Run every prompt at every exit and write tables and figures."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    out: Path = Path("runs/sweep")
    """Run directory. A run that was cut short is continued."""
    prompts: tuple[str, ...] = ("builtin:pairs",)
    """builtin:pairs, builtin:ordinary, or .jsonl, .json, .csv, .txt files; write harmful=FILE or
    harmless=FILE where the file itself has no labels."""
    exits: str = "all"
    """Which exits: all, or numbers and ranges such as 1,8,16-30."""
    max_new_tokens: int = 32
    """Tokens that each exit says at most; 0 sweeps the first token only."""
    generate_limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Generate for the first N prompts only (the halves of a pair count as one)."""
    samples: int = 1
    """Answers per prompt and exit; more than one needs a temperature."""
    temperature: float = 0.0
    """0 takes the most probable token."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Draw among the K most probable tokens."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Draw among the most probable tokens that together have probability P."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; cut off with all that follows."""
    reference: Path | None = None
    """The checkpoint that judges coherence; by default the model itself at full depth."""
    keep_text: bool = True
    """Keep what the model said in the run directory."""
    memory_gb: float = 2.0
    """Memory for caches and logits; more lanes than fit are split."""
    openers: tuple[str, ...] = DEFAULT_OPENERS
    """Words that open a refusal; each must be one token of the model."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N prompts (the halves of a pair count as one)."""
    batch_size: int = 16
    """Prompts per step. Changes speed and memory, not results."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights and activations; by default that of the checkpoint."""
    seed: int = 0
    """Of draws and of the bootstrap intervals."""


@dataclass(frozen=True)
class Decide:
    """Let every exit think, decide with a verdict token, and answer; write tables and figures."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    out: Path = Path("runs/decide")
    """Run directory. A run that was cut short is continued."""
    protocol: str = "prompted"
    """What is said to the model and what it says: prompted, tuned, or a TOML file."""
    prompts: tuple[str, ...] = ("builtin:pairs",)
    """As for `jaxdepth sweep`."""
    exits: str = "all"
    """Which exits: all, or numbers and ranges such as 1,8,16-30."""
    thought_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The longest thought, in place of the protocol's; 0 decides at once."""
    answer_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The longest answer, in place of the protocol's; 0 only decides."""
    votes: int = 1
    """Thoughts per prompt and exit; more than one needs a temperature."""
    temperature: float = 0.0
    """Of thoughts and answers; 0 takes the most probable token."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Draw among the K most probable tokens."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Draw among the most probable tokens that together have probability P."""
    verdict_temperature: float = 1.0
    """Divides the verdicts' log-probabilities; a run prints the one that fits its prompts."""
    refuse_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Refuse from this P(refuse) on; by default the most probable verdict is taken."""
    caution_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Answer in part from this P(refuse) + P(partial) on; goes with --refuse-from."""
    abstain_below: float = 0.0
    """Abstain, and show nothing, where the first verdict leads the second by less."""
    cuts: tuple[int, ...] = (0, 16, 64)
    """Also decide after only so many tokens of each thought; 0 is the direct verdict."""
    swap: bool = True
    """Also decide upon the thought of another prompt."""
    force: bool = True
    """Also answer after each of the three verdicts."""
    series: Literal["none", "caveat", "redecide"] = "none"
    """A second pass over what was judged partial: write the caveated answer, or decide again."""
    cost_rounds: int = 1
    """How often each program is timed for the table of costs; 0 leaves it out."""
    reference: Path | None = None
    """The checkpoint that judges coherence; by default the model itself at full depth."""
    keep_text: bool = True
    """Keep thoughts and answers in the run directory; --swap needs them."""
    memory_gb: float = 2.0
    """Memory for caches and logits; more lanes than fit are split."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N prompts (the halves of a pair count as one)."""
    batch_size: int = 8
    """Prompts per step. Changes speed and memory, not results."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights and activations; by default that of the checkpoint."""
    seed: int = 0
    """Of draws and of the bootstrap intervals."""


@dataclass(frozen=True)
class Bench:
    """Time all exits against one run at full depth, side by side in this process."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    batches: tuple[int, ...] = (1, 4, 16)
    """How many prompts at once."""
    length: int = 48
    """Tokens per prompt."""
    new_tokens: int = 16
    """Tokens that each lane says."""
    rounds: int = 5
    """How often each program is run."""
    loop: bool = True
    """Also time the loops over single exits, which take long."""


def read_settings(cls: type, name: str) -> dict:
    """Settings for the dataclass `cls` from a TOML file.

    Args:
        cls: one of the dataclasses above.
        name: a path, or the name of a file in configs/ without `.toml`.

    Raises:
        InputError: no such file, an unknown key (the nearest known one is named), a wrong type.
    """
    text, where = _find(name)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML ({error})") from None
    return check_settings(cls, raw, where)


def read_protocol(name: str) -> Protocol:
    """The protocol in a TOML file, or in one of configs/ by its name.

    Raises:
        InputError: as `read_settings`; a key is missing; a value makes no sense.
    """
    found = read_settings(Protocol, name)
    missing = [f.name for f in fields(Protocol) if f.name not in found]
    if missing:
        raise InputError(f"protocol {name} lacks {listed(missing)}")
    return Protocol(**found)


def check_settings(cls: type, raw: Mapping, where: str) -> dict:
    """Those settings with the types of the fields of `cls`; errors as in `read_settings`."""
    known = {f.name for f in fields(cls)}
    types_of = typing.get_type_hints(cls)
    out = {}
    for key, value in raw.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        out[key] = _as_type(value, types_of[key], f"{where}: {key}")
    return out


def _as_type(value, wanted, where: str):
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        wanted = next(o for o in options if o is not type(None))
        return _as_type(value, wanted, where)
    if origin is Literal:
        if value in options:
            return value
        raise InputError(f"{where} = {value!r}; expected one of {listed(map(repr, options), 9)}")
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_as_type(item, options[0], where) for item in value)
    elif wanted is Path:
        if isinstance(value, str):
            return Path(value)
    elif type(value) is wanted or (wanted is float and type(value) is int):
        return wanted(value)
    name = "list" if origin is tuple else "string" if wanted is Path else wanted.__name__
    raise InputError(f"{where} = {value!r}; expected a {name}")


def _find(name: str) -> tuple[str, str]:
    if Path(name).is_file():
        return Path(name).read_text("utf-8"), name
    # In a wheel the files lie inside the package, in a checkout beside it.
    package = files("jaxdepth")
    for folder in (package / "configs", Path(str(package)).parent / "configs"):
        if folder.is_dir():
            there = {f.name.removesuffix(".toml"): f for f in folder.iterdir()}
            if name in there:
                return there[name].read_text("utf-8"), f"configs/{name}.toml"
            raise InputError(
                f"no settings file {name}{nearest(name, there)}; there are {listed(there, 9)}"
            )
    raise InputError(f"no settings file {name}")
