"""The arms of the comparison: how each differs from the recipe, and which of them are run now."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.refusal.protocol import read_protocol
from jaxdepth.study.thinking.settings import Arms
from jaxdepth.study.tuning.run import ADAPTER
from jaxdepth.weights.adapter import settings_of

DIRECT, THOUGHT, BOTTLENECK, PROBE = "direct", "thought", "bottleneck", "probe"


@dataclass(frozen=True)
class Arm:
    """One way to tune for verdicts."""

    protocol: str
    thoughts: str  # as `tune --thoughts`
    meaning: str

    @property
    def thinks(self) -> bool:
        return read_protocol(self.protocol).thought_tokens > 0


ARMS = {
    DIRECT: Arm("direct", "own", "the verdict at once"),
    THOUGHT: Arm("tuned", "own", "a thought of its own before the verdict"),
    "same_verdict": Arm("tuned", "same_verdict", "the thought of another prompt, same verdict"),
    "any": Arm("tuned", "any", "the thought of any other prompt"),
    "filler": Arm("tuned", "filler", "as many full stops as the thought has tokens"),
    BOTTLENECK: Arm("bottleneck", "own", "a thought, and a verdict that reads the thought alone"),
}
# In what the adapters of a fair comparison may differ: the arm, and the seed.
_MAY_DIFFER = ("seed", "protocol", "thoughts")


class Unit(NamedTuple):
    """An arm with one training seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"


def plan_units(arms: Arms) -> tuple[list[Unit], dict[Unit, str], set[Unit]]:
    """Every unit of the comparison, the adapters that are given, and the units that run now.

    Raises:
        InputError: an unknown arm, an adapter without the unit that it is of, or a repeated seed.
    """
    for name in ("seeds", "control_seeds"):
        seeds = getattr(arms, name)
        if len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
            raise InputError(f"{name} are {list(seeds)}: expected different ones, 0 or more")
    seeds_of = {arm: arms.seeds if arm in (DIRECT, THOUGHT) else arms.control_seeds for arm in ARMS}
    units = [Unit(arm, seed) for arm, seeds in seeds_of.items() for seed in seeds]
    given = given_adapters(arms.adapters)
    units += [unit for unit in given if unit not in units]
    units.sort(key=lambda unit: (list(ARMS).index(unit.arm), unit.seed))
    chosen = set(units)
    if arms.only:
        by_name = {unit.name: {unit} for unit in units}
        by_name |= {arm: {unit for unit in units if unit.arm == arm} for arm in ARMS}
        unknown = [name for name in arms.only if name not in by_name]
        if unknown:
            raise InputError(
                f"only {unknown[0]!r}: no arm or seed of the plan{nearest(unknown[0], by_name)}; "
                f"there are {listed(by_name, 9)}"
            )
        chosen = set[Unit]().union(*(by_name[name] for name in arms.only))
    return units, given, chosen


def given_adapters(items: tuple[str, ...]) -> dict[Unit, str]:
    """The adapters of `--adapters`: ARM-SEED=ADAPTER, or folders with some.

    Raises:
        InputError: an item is neither, or a folder has none.
    """
    given: dict[Unit, str] = {}
    for item in items:
        name, equals, adapter = item.partition("=")
        if equals:
            given[parse_unit(name)] = adapter
            continue
        if not Path(item).is_dir():
            raise InputError(f"adapters {item!r}: expected ARM-SEED=ADAPTER, or a folder")
        in_folder = {}
        for path in sorted(Path(item).iterdir()):
            arm, _, seed = path.name.removesuffix(".safetensors").rpartition("-")
            file = path / ADAPTER if path.is_dir() else path
            if arm in ARMS and seed.isdecimal() and file.is_file():
                in_folder[Unit(arm, int(seed))] = str(file)
        if not in_folder:
            raise InputError(
                f"{item} has no adapter ARM-SEED.safetensors or ARM-SEED/{ADAPTER}; arms are "
                f"{listed(ARMS, 9)}"
            )
        given |= in_folder
    return given


def parse_unit(name: str) -> Unit:
    """The unit of a name such as thought-2; raises InputError where there is no such arm."""
    arm, _, seed = name.rpartition("-")
    if arm not in ARMS or not seed.isdecimal():
        raise InputError(f"{name!r} is no arm with a seed, such as thought-1; arms are {[*ARMS]}")
    return Unit(arm, int(seed))


def training_settings(unit: Unit, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with what makes it that arm and seed."""
    arm = ARMS[unit.arm]
    changes = {"protocol": arm.protocol, "thoughts": arm.thoughts, "seed": unit.seed}
    return {**recipe, "method": "verdicts", **changes}


def check_adapter(unit: Unit, adapter: str) -> None:
    """Raise InputError unless an adapter was tuned as its arm says."""
    made, arm = settings_of(adapter), ARMS[unit.arm]
    if made.get("method") != "verdicts":
        raise InputError(f"{adapter} was not tuned with --method verdicts: it has no verdicts")
    if made.get("thoughts", "own") != arm.thoughts:
        raise InputError(
            f"{adapter} was tuned with thoughts = {made.get('thoughts')}; arm {unit.arm} has "
            f"{arm.thoughts}"
        )
    expected = read_protocol(arm.protocol)
    recorded = made.get("protocol") or {}
    for name, value in json.loads(json.dumps(expected.record())).items():
        # How long an answer may be is no part of how it decides.
        if name != "answer_tokens" and recorded.get(name) != value:
            raise InputError(
                f"{adapter} was tuned under a protocol with {name} = {recorded.get(name)!r}; arm "
                f"{unit.arm} has {value!r}"
            )
    if recorded.get("verdict_reads", "all") != expected.verdict_reads:
        raise InputError(f"{adapter}: its verdict reads the thought alone; arm {unit.arm} does not")


def training_differences(adapters: Mapping[Unit, str]) -> list[str]:
    """In what else than arm and seed the adapters were tuned differently, a sentence each."""
    made = {unit: settings_of(adapter) for unit, adapter in adapters.items()}
    lines = []
    for unit, settings in made.items():
        first_unit, first = next(iter(made.items()))
        for name in sorted((first.keys() | settings.keys()) - set(_MAY_DIFFER)):
            if name not in first or name not in settings:
                silent = unit if name not in settings else first_unit
                lines.append(f"Training: {silent.name} does not record {name}")
            elif settings[name] != first[name]:
                lines.append(
                    f"Not the same training: {unit.name} was tuned with {name} = "
                    f"{_short(settings[name])}, "
                    f"{first_unit.name} with {_short(first[name])}"
                )
    return list(dict.fromkeys(lines))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
