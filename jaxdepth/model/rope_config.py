"""How positions enter a model: RoPE and its scaling, read from a `config.json`.

Source: transformers `modeling_rope_utils.py`, 4.57 and 5.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short  # values in a file may be long
from typing import Any

from jaxdepth.errors import InputError, listed
from jaxdepth.model.families import Family


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches RoPE to longer texts than it was pretrained on."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: fast pairs stay, slow ones are slowed by `factor`, and logits may be scaled.

    Source: Peng et al. 2023 (arXiv:2309.00071).
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float  # pairs that turn more often than this in the original length stay
    beta_slow: float  # pairs that turn less often are slowed by the whole factor
    attention_factor: float  # multiplies cosines and sines, so logits by its square
    truncate: bool  # whether the range of pairs between is rounded to whole pairs


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: its base, and how it is scaled (None: not at all)."""

    theta: float
    scaling: Llama3Scaling | YarnScaling | LinearScaling | None = None


@dataclass(frozen=True)
class QueryScaling:
    """How Ministral 3 scales queries by their position, in steps of the original length.

    A query is multiplied by 1 + beta ln(1 + floor(position / original)): by 1 before `original`.
    """

    beta: float
    original_max_position_embeddings: int


# Keys of a RoPE description that change nothing, and of each type those that it must and may have.
_HARMLESS = ("finetuned", "max_position_embeddings")
_LENGTH = "original_max_position_embeddings"
_YARN = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate")
_KEYS = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
    "yarn": (("factor",), _YARN),
}


def read_rope(
    raw: Mapping[str, Any], family: Family, max_positions: int
) -> tuple[RopeConfig, QueryScaling | None]:
    """RoPE and the scale of queries, from either form in which configs describe them, or both.

    The forms are `rope_theta` with `rope_scaling`, and transformers 5's `rope_parameters`. Dynamic
    scaling changes nothing within `max_position_embeddings`, beyond which inputs are refused.

    Args:
        raw: a `config.json`.
        family: of the model.
        max_positions: its `max_position_embeddings`.

    Raises:
        InputError: a type or key that is not implemented, a bad value, or forms that disagree.
    """
    descriptions = []
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(raw.get(name), Mapping | None):
            raise InputError(f"{name} is {short(raw[name])}, expected an object")
        if raw.get(name):
            descriptions.append(raw[name])
    if not descriptions:
        descriptions.append(family.rope if raw.get("rope_theta") is None and family.rope else {})
    read = {_read(dict(rope), raw, family, max_positions) for rope in descriptions}
    if len(read) > 1:
        raise InputError("rope_parameters and rope_scaling disagree")
    return read.pop()


def _read(
    rope: dict[str, Any], raw: Mapping[str, Any], family: Family, max_positions: int
) -> tuple[RopeConfig, QueryScaling | None]:
    rope = {k: v for k, v in rope.items() if v is not None and k not in _HARMLESS}
    theta = _agreed("rope_theta", rope.pop("rope_theta", None), raw, family.rope_theta)
    length = _agreed(_LENGTH, rope.pop(_LENGTH, None), raw, max_positions)
    kinds = {str(rope.pop(key)) for key in ("rope_type", "type") if key in rope}
    kind = kinds.pop() if len(kinds) == 1 else "default" if not kinds else str(sorted(kinds))
    if rope.pop("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("partial_rotary_factor other than 1.0 is not implemented")
    queries = None
    if family.scales_queries and "llama_4_scaling_beta" in rope:
        beta = number("llama_4_scaling_beta", rope.pop("llama_4_scaling_beta"))
        queries = QueryScaling(beta, int(length))
    required, optional = _KEYS.get(kind, ((), ()))
    extra = sorted(set(rope) - {*required, *optional})
    if kind not in _KEYS or extra:
        raise InputError(
            f"RoPE type {short(kind)}{' with ' if extra else ''}{listed(extra)} is not "
            f"implemented, only {', '.join(map(repr, _KEYS))} with the keys that transformers reads"
        )
    if kind == "yarn" and theta <= 1:
        raise InputError(f"rope_theta is {theta:g}, expected more than 1 with yarn RoPE")
    missing = [name for name in required if name not in rope]
    if missing:
        raise InputError(f"{kind} RoPE scaling lacks {listed(missing)}")
    return RopeConfig(theta, _scaling(kind, rope, int(length))), queries


def _scaling(
    kind: str, rope: Mapping[str, Any], length: int
) -> Llama3Scaling | YarnScaling | LinearScaling | None:
    """The scaling of a type, given its keys and the length of the texts of pretraining."""
    if kind in ("default", "dynamic"):
        return None
    factor = number("factor", rope["factor"])
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "llama3":
        low, high = (number(name, rope[name]) for name in _KEYS["llama3"][0][1:])
        if low == high:
            raise InputError("llama3 RoPE scaling: low_freq_factor equals high_freq_factor")
        return Llama3Scaling(factor, low, high, length)
    fast, slow = number("beta_fast", rope.get("beta_fast") or 32), rope.get("beta_slow") or 1
    truncate = rope.get("truncate", True)
    if not isinstance(truncate, bool):
        raise InputError(f"truncate is {short(truncate)}, expected true or false")
    return YarnScaling(
        factor, length, fast, number("beta_slow", slow), _attention_factor(rope, factor), truncate
    )


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What YaRN multiplies cosines and sines by: as stated, or as its keys imply."""
    if "attention_factor" in rope:
        return number("attention_factor", rope["attention_factor"])

    def scale(name: str) -> float:
        weight = number(name, rope[name]) if rope.get(name) else 1.0
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    has_both = rope.get("mscale") and rope.get("mscale_all_dim")
    return scale("mscale") / scale("mscale_all_dim") if has_both else scale("")


def _agreed(name: str, inside: Any, raw: Mapping[str, Any], default: float) -> float:
    """A value that may stand in the RoPE description, beside it, or in both.

    Raises:
        InputError: the two differ.
    """
    values = {number(name, value) for value in (inside, raw.get(name)) if value is not None}
    if len(values) > 1:
        raise InputError(f"two values of {name}: {sorted(values)}; keep one of them")
    return values.pop() if values else default


def number(name: str, value: Any) -> float:
    """A positive number of a config.

    Raises:
        InputError: it is something else; names it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise InputError(f"{name} is {short(value)}, expected a positive number")
    return float(value)
