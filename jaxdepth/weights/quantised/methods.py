"""The methods by which safetensors are quantised, by the names that `config.json` has for them."""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

from jaxdepth.errors import InputError
from jaxdepth.files import read_json
from jaxdepth.weights.quantised.awq import find_awq
from jaxdepth.weights.quantised.bitsandbytes import find_bitsandbytes
from jaxdepth.weights.quantised.compressed_tensors import find_compressed_tensors
from jaxdepth.weights.quantised.fp8 import find_fp8
from jaxdepth.weights.quantised.gptq import find_gptq
from jaxdepth.weights.quantised.packed import Finder, Found, Headers, Reader, Settings

METHODS: dict[str, Finder] = {
    "fp8": find_fp8,
    "compressed-tensors": find_compressed_tensors,
    "gptq": find_gptq,
    "awq": find_awq,
    "bitsandbytes": find_bitsandbytes,
}
# Where GPTQ's older tools wrote their settings, and nowhere else.
GPTQ_SETTINGS = "quantize_config.json"
_KEYS = ("quantization_config", "compression_config")
# In this order, as far as a config has them.
_DESCRIBED = ("checkpoint_format", "format", "version", "bits", "w_bit", "group_size", "desc_act",
              "weight_block_size", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")  # fmt: skip


def take_settings(raw: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], Settings | None]:
    """A `config.json` without its quantisation, and the settings of that; None if it has none.

    Args:
        raw: the config; a text model inside another may have them.
        folder: where it was, for the file of settings that older tools wrote.

    Raises:
        InputError: they are not an object, or name no method that is read.
    """
    if not isinstance(raw, Mapping):
        return raw, None  # which is refused where the config is read
    rest = {k: v for k, v in raw.items() if k not in _KEYS or v is None}
    given = [raw[key] for key in _KEYS if raw.get(key) is not None]
    text = raw.get("text_config")
    if isinstance(text, Mapping) and any(key in text for key in _KEYS):
        inner, settings = take_settings(text, folder)
        rest["text_config"] = inner
        given += [settings] * (settings is not None)
    if not given and (folder / GPTQ_SETTINGS).is_file():
        settings = read_json(folder / GPTQ_SETTINGS)
        given = [{"quant_method": "gptq", **settings} if isinstance(settings, dict) else settings]
    if not given:
        return rest, None
    if len(given) > 1 and given[0] != given[1]:
        raise InputError(f"{folder}: config.json has two quantisations that differ: {short(given)}")
    return rest, _checked(given[0])


def _checked(settings: object) -> Settings:
    if not isinstance(settings, Mapping):
        raise InputError(f"quantization_config is {short(settings)}, expected an object")
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"  # which older files do not name
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(
            f"weights quantised by {short(method)} are not read, only by {', '.join(METHODS)}"
        )
    return {**settings, "quant_method": method}


def find_packed(settings: Settings, headers: Headers, read: Reader) -> Found:
    """The quantised weights among the tensors of a source.

    Args:
        settings: its `quantization_config`.
        headers: of all its tensors.
        read: reads a small tensor.

    Raises:
        InputError: something is missing, unknown or of a wrong shape, or nothing is quantised.
    """
    found = METHODS[settings["quant_method"]](settings, headers, read)
    if not found.packed:
        raise InputError(
            f"config.json says that weights are quantised by {settings['quant_method']}, but no "
            "tensor is: it belongs to other files"
        )
    return found


def describe_method(settings: Settings) -> str:
    """The method and what it was told, on one line: `gptq, bits 4, group_size 128`."""
    shown = [f"{name} {short(settings[name])}" for name in _DESCRIBED if settings.get(name)]
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            names = ("num_bits", "type", "strategy", "group_size")
            stated = (weights[name] for name in names if weights.get(name))
            shown.append(" ".join(short(value).strip("'") for value in stated))
    return ", ".join([str(settings["quant_method"]), *shown])
