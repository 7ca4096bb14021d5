"""How a GGUF file scales RoPE, in the form in which a Hugging Face `config.json` says it.

Sources: llama.cpp `src/llama-model.cpp` (what each key means, and which are absent) and
`conversion/llama.py`, which writes Llama 3's scaling as a tensor of divisors, `rope_freqs.weight`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdepth.errors import InputError, listed

DIVISORS = "rope_freqs.weight"
_TYPE, _FACTOR, _OLD_FACTOR = "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"
_ORIGINAL = "rope.scaling.original_context_length"
# GGUF's name -> Hugging Face's, of what only YaRN reads.
_YARN = {
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_log_multiplier": "mscale_all_dim",
}
# Hugging Face has no such numbers: only these values are what it computes.
_ONLY = {"rope.scaling.yarn_ext_factor": (1.0, -1.0), "rope.scaling.attn_factor": (1.0,)}
ROPE_KEYS = frozenset(
    {_TYPE, _FACTOR, _OLD_FACTOR, _ORIGINAL, "rope.scaling.finetuned", *_YARN, *_ONLY}
)
_TOLERANCE = 1e-5  # relative; the divisors are float32
_LLAMA3_HIGH, _LLAMA3_ORIGINAL = 4.0, 8192  # of all Llama 3 models


def rope_scaling(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `rope_scaling` of a Hugging Face config; None if the file scales nothing.

    Args:
        own: the metadata of the architecture, without its prefix.

    Raises:
        InputError: a kind of scaling, or a value, that has no such form.
    """
    kind = own.get(_TYPE, "linear")  # llama.cpp's default, which a factor of 1 turns off
    factor = _number(own, _FACTOR if _FACTOR in own else _OLD_FACTOR, 0.0) or 1.0
    if kind not in ("none", "linear", "yarn"):
        raise InputError(
            f"{_TYPE} = {kind!r} is not implemented, only none, linear and yarn: convert the "
            "safetensors of this model"
        )
    if kind == "yarn" and _FACTOR not in own:
        raise InputError(f"RoPE is scaled by YaRN, but {_FACTOR} is missing: fetch the file again")
    if kind == "none" or factor == 1.0:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    differing = [
        f"{key} = {own[key]}" for key, only in _ONLY.items() if own.get(key) not in (None, *only)
    ]
    if differing:
        raise InputError(
            f"YaRN with {listed(differing)} is not implemented: convert the safetensors of this "
            "model"
        )
    scaling = {"rope_type": "yarn", "factor": factor}
    original = own.get(_ORIGINAL, own.get("context_length"))
    scaling |= {"original_max_position_embeddings": original}
    scaling |= {hf: _number(own, key) for key, hf in _YARN.items() if key in own}
    if not scaling.get("mscale_all_dim", 1.0):
        del scaling["mscale_all_dim"]  # 0 is llama.cpp's way to say that there is none
    if "mscale_all_dim" in scaling:
        scaling["mscale"] = 1.0  # as llama.cpp assumes
    return scaling


def divisors_scaling(divisors: Float[np.ndarray, " pairs"], theta: float) -> dict[str, Any] | None:
    """The `rope_scaling` of a Hugging Face config that divides frequencies as a file does.

    Llama 3's scaling has four numbers, of which three matter: all frequencies stay the same if
    `low_freq_factor`, `high_freq_factor` and the original length are multiplied by one number. The
    first is set to 1, as in all Llama 3 models, the others follow from the divisors between the
    smallest and the largest.

    Args:
        divisors: of the frequency of each pair of axes, the fastest first.
        theta: the base of RoPE.

    Returns:
        None if the divisors are all 1.

    Raises:
        InputError: they are not those of Llama 3's scaling.
    """
    divisors = np.asarray(divisors, np.float64)
    factor = float(str(np.float32(divisors.max())))  # 8.1, not the float32 next to it
    if divisors.min() < 1 - _TOLERANCE:
        raise _not_llama3(divisors)
    if np.allclose(divisors, factor, rtol=_TOLERANCE, atol=0):
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    axes = 2 * len(divisors)
    turns = theta ** -(np.arange(0, axes, 2) / axes) / (2 * np.pi)  # per position
    for high, original in _llama3_candidates(divisors, turns, factor):
        expected = _llama3_divisors(turns, factor, high, original)
        if np.allclose(divisors, expected, rtol=_TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise _not_llama3(divisors)


def _llama3_candidates(
    divisors: Float[np.ndarray, " pairs"], turns: Float[np.ndarray, " pairs"], factor: float
) -> Iterator[tuple[float, int]]:
    """Values of high_freq_factor and of the original length to try, the likeliest first."""
    yield _LLAMA3_HIGH, _LLAMA3_ORIGINAL
    is_slow = divisors > factor * (1 - _TOLERANCE)
    yield _LLAMA3_HIGH, int(1 / turns[is_slow][0])  # fits if no pair is between fast and slow
    is_between = ~is_slow & (divisors > 1 + _TOLERANCE)
    if not is_between.any():
        return
    # Between them the part that is not slowed is (original * turns - 1) / (high - 1).
    part = (1 / divisors[is_between] - 1 / factor) / (1 - 1 / factor)
    turns = turns[is_between]
    yield _LLAMA3_HIGH, round(float(np.mean((part * (_LLAMA3_HIGH - 1) + 1) / turns)))
    if len(part) > 1:
        slope, intercept = np.polyfit(turns, part, 1)
        if intercept < 0:
            yield round(float(1 - 1 / intercept), 4), round(float(-slope / intercept))


def _llama3_divisors(
    turns: Float[np.ndarray, " pairs"], factor: float, high: float, original: int
) -> Float[np.ndarray, " pairs"]:
    part = np.clip((original * turns - 1) / (high - 1), 0, 1)
    return 1 / ((1 - part) / factor + part)


def _not_llama3(divisors: Float[np.ndarray, " pairs"]) -> InputError:
    return InputError(
        f"the divisors of RoPE's frequencies ({DIVISORS}, from {divisors.min():.3g} to "
        f"{divisors.max():.3g}) are not those of Llama 3's scaling, and no other is implemented: "
        "convert the safetensors of this model"
    )


def _number(own: Mapping[str, Any], key: str, default: float = 0.0) -> float:
    value = own.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise InputError(f"{key} is {value!r}, expected a number")
    return float(str(np.float32(value)))
