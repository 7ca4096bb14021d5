"""What a PEFT `adapter_config.json` asks for, field by field.

Every field of PEFT's `LoraConfig` is applied as PEFT applies it, has no effect on a loaded adapter,
or is refused by name. Source: huggingface/peft 0.21, `tuners/lora/config.py` (the fields),
`tuners/lora/layer.py` (scaling, and what each initialisation does to the base), `tuners_utils.py`
(`check_target_module_exists`), `utils/other.py` (`get_pattern_key`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import regex

from jaxdepth.errors import InputError, listed, one_line
from jaxdepth.files import read_json

PEFT_CONFIG = "adapter_config.json"
# Read below.
_APPLIED = {
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "init_lora_weights",
}  # fmt: skip
# About the file, training or memory. The configs of initialisations count only with theirs, and
# PEFT takes `fan_in_fan_out` back for linear layers. What `bias` and `ensure_weight_tying` let
# training change is in the tensors, none of which is left unread.
_NO_EFFECT = {
    "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode",
    "lora_dropout", "fan_in_fan_out", "bias", "ensure_weight_tying", "megatron_core",
    "eva_config", "corda_config", "lora_ga_config", "loftq_config",
    "qalora_group_size", "runtime_config", "merge_weights",
}  # fmt: skip
# Values that turn any other field off.
_OFF: tuple[object, ...] = (None, False, {}, [], "", "none")

# Initialisations that leave the base as it is: the saved factors alone say what was trained.
_OWN_START = ("gaussian", "eva", "orthogonal", "mica")
# Those that take something out of the base, or quantise it, and count on the changed base.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# What PEFT adapts in the families that we read if the config names nothing.
_DEFAULT_TARGETS = ("q_proj", "v_proj")
_LINEAR = "all-linear"
_SECONDS = 1.0  # for one expression of a stranger's file
_MAX_PATTERN, _MAX_REPEATS = 2000, 10_000  # characters; times
_RECURSION = regex.compile(r"\(\?(R|\+?-?\d|&|P>)")  # of which no time limit holds
_REPEAT, _NUMBER = regex.compile(r"\{[^{}]*\d[^{}]*\}"), regex.compile(r"\d{1,300}")


@dataclass(frozen=True)
class PeftConfig:
    """The part of a LoRA config that decides what a module's factors do."""

    path: Path  # of the adapter, for messages
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: tuple[int, ...]  # empty: all
    layers_pattern: tuple[str, ...]
    version: str

    def rank_of(self, module: str) -> int:
        """The rank of a module's factors, such as `model.layers.0.self_attn.q_proj`."""
        return self._by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What PEFT multiplies the product of a module's factors with."""
        rank = self.rank_of(module)
        alpha = self._by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether PEFT adapts a module of the model; of others it ignores what the file holds."""
        if self._names(self.exclude_modules, module):
            return False
        if isinstance(self.target_modules, str):
            return self.target_modules == _LINEAR or self._names(self.target_modules, module)
        if module in self.target_modules:
            return True
        if not self._names(self.target_modules, module):
            return False
        return not self.layers_to_transform or self._layer(module) in self.layers_to_transform

    def _names(self, modules: str | tuple[str, ...], module: str) -> bool:
        if isinstance(modules, str):
            return bool(modules) and self._match(rf"(?:{modules})\Z", module) is not None
        return any(module == name or module.endswith(f".{name}") for name in modules)

    def _layer(self, module: str) -> int | None:
        for pattern in self.layers_pattern or (r"[^.]*",):
            match = self._match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.", module)
            if match is not None:
                return int(match.group("layer"))
        return None

    def _by_pattern(self, patterns: Mapping, module: str, default):
        keys = (key for key in patterns if self._match(rf"(.*\.)?({key})$", module))
        return patterns.get(next(keys, ""), default)

    def _match(self, pattern: str, module: str) -> regex.Match[str] | None:
        if len(pattern) > _MAX_PATTERN:  # no time limit holds while it is compiled
            problem = f"has {len(pattern):,} characters, expected at most {_MAX_PATTERN:,}"
        elif _RECURSION.search(pattern):
            problem = "calls itself or one of its groups"
        elif _repeats(pattern) > _MAX_REPEATS:  # repeats within each other would fill the memory
            problem = f"repeats parts up to {_repeats(pattern):.3g} times"
        else:
            try:
                return regex.match(pattern, module, timeout=_SECONDS)
            except TimeoutError:
                problem = "takes too long to match"
            except (regex.error, RecursionError, OverflowError, ValueError, MemoryError) as error:
                problem = f"is no regular expression ({one_line(error)})"
        raise InputError(f"{self.path / PEFT_CONFIG}: {pattern[:60]!r} {problem}")


def _repeats(pattern: str) -> float:
    """How often all counted repeats of an expression, within each other, repeat a part."""
    counts = (max(map(float, counts)) for counts in map(_NUMBER.findall, _REPEAT.findall(pattern)))
    return math.prod(max(1.0, count) for count in counts)


def read_peft_config(path: Path) -> PeftConfig:
    """Read the config of a PEFT adapter.

    Args:
        path: the adapter's folder.

    Raises:
        InputError: it is damaged, or asks for something else than low-rank factors on the base as
            it was published.
    """
    settings = read_peft_settings(path)
    _check_kind(path, settings)
    _check_initialisation(path, settings)
    targets = settings.get("target_modules")
    layers = settings.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    return PeftConfig(
        path=path,
        rank=int(_positive(path, "r", settings.get("r"), whole=True)),
        alpha=_positive(path, "lora_alpha", settings.get("lora_alpha")),
        use_rslora=bool(settings.get("use_rslora")),
        rank_pattern=_pattern(path, settings, "rank_pattern", whole=True),
        alpha_pattern=_pattern(path, settings, "alpha_pattern"),
        target_modules=_DEFAULT_TARGETS if targets is None else _modules(path, settings),
        exclude_modules=_modules(path, settings, "exclude_modules"),
        layers_to_transform=_tuple_of(path, "layers_to_transform", layers, int),
        layers_pattern=_strings(path, settings, "layers_pattern"),
        version=str(settings.get("peft_version")),
    )


def read_peft_settings(path: Path) -> dict:
    """The fields of a PEFT adapter's config as they are; raises InputError if it is damaged."""
    settings = read_json(path / PEFT_CONFIG)
    if not isinstance(settings, dict):
        raise InputError(f"{path / PEFT_CONFIG} is not an object of JSON: fetch it again")
    return settings


def changes_base(start: object) -> bool | None:
    """Whether a value of `init_lora_weights` changes the base; None where that is not known."""
    if start is None or isinstance(start, bool):
        return False
    name = start.lower() if isinstance(start, str) else ""
    if name in _OWN_START:
        return False
    return True if name.startswith(_CHANGED_BASE) else None


def _check_kind(path: Path, settings: Mapping) -> None:
    """Raise InputError if a field asks for something that is not read."""
    known = _APPLIED | _NO_EFFECT
    unknown = [k for k, v in settings.items() if k not in known and v not in _OFF]
    for name, expected in (("peft_type", ("LORA",)), ("task_type", ("CAUSAL_LM", None))):
        if settings.get(name) not in expected:
            unknown.insert(0, f"{name} {str(settings.get(name))[:40]!r}")
    if unknown:
        raise InputError(
            f"{path}: only plain LoRA is read, this one has {listed(unknown, 5)}: merge it into "
            "its base with PEFT (`merge_and_unload`), save the merged model and convert that"
        )


def _check_initialisation(path: Path, settings: Mapping) -> None:
    """Raise InputError if the factors belong to a base that the initialisation has changed."""
    start = settings.get("init_lora_weights", True)
    is_changed = changes_base(start)
    if is_changed is False:
        return
    if is_changed:
        raise InputError(
            f"{path}: init_lora_weights {start!r} changes the base before training, so these are "
            "no factors of the published base: save the adapter anew with PEFT's save_pretrained "
            "and path_initial_model_for_weight_conversion, or merge it into its base with PEFT and "
            "convert that"
        )
    raise InputError(
        f"{path}: init_lora_weights is {str(start)[:40]!r}, expected true, false or one of "
        f"{', '.join(_OWN_START)}: merge the adapter into its base with PEFT and convert that"
    )


def _modules(path: Path, settings: Mapping, name: str = "target_modules") -> str | tuple[str, ...]:
    value = settings.get(name)
    return value if isinstance(value, str) else _tuple_of(path, name, value, str)


def _strings(path: Path, settings: Mapping, name: str) -> tuple[str, ...]:
    value = settings.get(name)
    return _tuple_of(path, name, [value] if isinstance(value, str) else value, str)


def _tuple_of(path: Path, name: str, value: object, kind: type) -> tuple:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise InputError(
            f"{path}: {name} is {str(value)[:60]!r}, expected a list of {kind.__name__}"
        )
    return tuple(value)


def _pattern(path: Path, settings: Mapping, name: str, whole: bool = False) -> dict:
    value = settings.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name} is {str(value)[:60]!r}, expected an object of numbers")
    items: Iterable[tuple[str, object]] = value.items()
    return {key: _positive(path, f"{name} {key}", number, whole) for key, number in items}


def _positive(path: Path, name: str, value: object, whole: bool = False) -> int | float:
    not_whole = whole and not isinstance(value, int)
    if isinstance(value, bool) or not isinstance(value, int | float) or not_whole:
        raise InputError(f"{path}: {name} is {value!r}, expected a number")
    if not 0 < value < 1e9:
        raise InputError(f"{path}: {name} is {value!r}, expected a positive number")
    return value
