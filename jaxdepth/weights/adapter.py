"""Adapter files: what tuning made, without the base.

One safetensors file holds the arrays of `model.tuned` and, in its header, what they are: their
form, the base they were made for, new tokens, and how they came about. PEFT's LoRA folders are read
too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.files import damaged_header, open_arrays, read_arrays, read_json, save_arrays
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import MATRICES, parameter_shapes
from jaxdepth.model.tuned import Form, Params, merge
from jaxdepth.weights.tensor_map import HF_NAMES

FORMAT = "jaxdepth-adapter-1"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What a PEFT config may say besides; anything else that is not off would change the numbers.
_PEFT_OFF = (None, False, {}, [], "", "none")
_PEFT_TOLD = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform",
    "base_model_name_or_path", "task_type", "inference_mode", "lora_dropout", "init_lora_weights",
    "revision", "auto_mapping", "peft_version", "layers_pattern", "exclude_modules",
    "ensure_weight_tying", "qalora_group_size", "eva_config", "corda_config", "loftq_config",
    "megatron_core",
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """What was trained, for which base, and how."""

    form: Form
    params: Params
    base: str | None  # the base's fingerprint; None if the file does not say
    tokens: tuple[str, ...]  # new special tokens
    made: Mapping  # settings, data digest, versions


def save_adapter(path: Path, adapter: Adapter, dtype="bfloat16") -> None:
    """Writes an adapter file; its arrays are rounded to `dtype`."""
    said = {
        "format": FORMAT,
        "form": asdict(adapter.form),
        "base": adapter.base,
        "tokens": adapter.tokens,
        "made": adapter.made,
    }
    arrays = {k: np.asarray(v).astype(jnp.dtype(dtype)) for k, v in adapter.params.items()}
    save_arrays(path, arrays, said)


def find_adapter(name: str) -> Path:
    """The place of `builtin:NAME`, or of a file or folder.

    Raises:
        InputError: there is none.
    """
    if name.startswith("builtin:"):
        folder = files("jaxdepth") / "data" / "adapters"
        found = folder.iterdir() if folder.is_dir() else ()
        there = {f.name.removesuffix(".safetensors"): f for f in found}
        wanted = name.removeprefix("builtin:")
        if wanted not in there:
            raise InputError(f"no built-in adapter {wanted!r}{nearest(wanted, there)}")
        return Path(str(there[wanted]))
    if not Path(name).exists():
        raise InputError(f"no adapter {name}: expected a .safetensors file or a PEFT folder")
    return Path(name)


def adapter_digest(name: str) -> str:
    """SHA-256 of an adapter's arrays and of what its file says."""
    path = find_adapter(name)
    parts = [path / PEFT_CONFIG, path / PEFT_WEIGHTS] if path.is_dir() else [path]
    return hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()


def brings_tokens(name: str) -> bool:
    """Whether an adapter adds tokens, as one that decides by a verdict token does."""
    path = find_adapter(name)
    return not path.is_dir() and bool(_read_ours(path).tokens)


def read_adapter(name: str, config: ModelConfig) -> Adapter:
    """An adapter of ours or of PEFT, for a base of that shape.

    Raises:
        InputError: there is none, it is damaged, or it is for a model of another shape.
    """
    path = find_adapter(name)
    adapter = _read_peft(path, config) if path.is_dir() else _read_ours(path)
    shapes = parameter_shapes(config)
    lacking = adapter.form.keys(config.tie_word_embeddings) - set(adapter.params)
    if lacking:
        raise InputError(f"{path} lacks {listed(sorted(lacking))}: it is damaged")
    for key, array in adapter.params.items():
        wanted = _shape(key, adapter, shapes)
        if tuple(array.shape) != wanted:
            raise InputError(
                f"{path}: {key} is {tuple(array.shape)}, expected {wanted}: the adapter is for "
                "another model"
            )
    return adapter


def apply_adapter(
    model: Mistral, tokenizer, fingerprint: str, adapter: Adapter, where: str
) -> Mistral:
    """The base with the adapter merged in; new tokens are added to the tokenizer.

    Raises:
        InputError: the adapter was made for another base, or its tokens do not fit the tokenizer.
    """
    if adapter.base is not None and adapter.base != fingerprint:
        raise InputError(
            f"{where} was made for the base {adapter.base[:12]}, this checkpoint is "
            f"{fingerprint[:12]}: name that base, or another adapter"
        )
    if adapter.tokens:
        if tokenizer is None:
            raise InputError(f"{where} brings new tokens, and the checkpoint has no tokenizer")
        if add_tokens(tokenizer, adapter.tokens) != adapter.form.first_new:
            raise InputError(f"{where}: its new tokens have other ids in this tokenizer")
    return merge(model, adapter.params, adapter.form)


def add_tokens(tokenizer, tokens: tuple[str, ...]) -> int:
    """Adds special tokens to a tokenizer; returns the id of the first.

    Raises:
        InputError: one is already there.
    """
    first = len(tokenizer)
    taken = [t for t in tokens if t in tokenizer.get_vocab()]
    if taken:
        raise InputError(f"the tokenizer already has {listed(taken)}")
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return first


def _shape(key: str, adapter: Adapter, shapes: Mapping) -> tuple[int, ...]:
    """The shape that an array of an adapter must have."""
    form, n = adapter.form, len(adapter.form.layers)
    if key.endswith("_rows"):
        return (len(adapter.tokens), shapes["embed"][1])
    leaf = key.removesuffix(".a").removesuffix(".b")
    if leaf not in shapes:
        raise InputError(f"an adapter's array {key} belongs to no weight of this model")
    whole = shapes[leaf]
    if form.rank is None:
        return (n, *whole[1:]) if leaf.startswith("layers.") else whole
    return (n, whole[1], form.rank) if key.endswith(".a") else (n, form.rank, whole[2])


def _read_ours(path: Path) -> Adapter:
    arrays, said = read_arrays(path, "an adapter", FORMAT)
    try:
        form = said["form"] | {k: tuple(said["form"][k]) for k in ("layers", "leaves")}
        tokens = tuple(said["tokens"])
        return Adapter(Form(**form), _floats(arrays), said["base"], tokens, said["made"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_header(path, error) from None


def _floats(arrays: Mapping[str, np.ndarray]) -> Params:
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def _read_peft(path: Path, config: ModelConfig) -> Adapter:
    """PEFT's `lora_A` (R, I) and `lora_B` (O, R) of each layer, stacked and turned."""
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (path / name).is_file():
            raise InputError(f"{path} is not a PEFT adapter: it has no {name}")
    said = read_json(path / PEFT_CONFIG)
    if not isinstance(said, dict):
        raise InputError(f"{path / PEFT_CONFIG} is not an object of JSON: fetch it again")
    odd = [k for k, v in said.items() if k not in _PEFT_TOLD and v not in _PEFT_OFF]
    if said.get("peft_type") != "LORA" or odd:
        raise InputError(f"{path}: only plain LoRA is read, this one has {listed(odd or ['type'])}")
    arrays = _floats(open_arrays(path / PEFT_WEIGHTS)[0])
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name in MATRICES:
        for layer in range(config.num_hidden_layers):
            stem = "base_model.model." + HF_NAMES[name].format(i=layer).removesuffix(".weight")
            pair = {end: arrays.pop(f"{stem}.lora_{end}.weight", None) for end in "AB"}
            if all(part is not None for part in pair.values()):
                found.setdefault(name, {})[layer] = pair
    layers = {tuple(sorted(of)) for of in found.values()}
    if arrays or len(layers) != 1:
        wrong = listed(arrays) if arrays else "other layers for some matrices than for others"
        raise InputError(f"{path}: cannot read {wrong}")
    rank = _positive(path, said, "r")
    scale = _positive(path, said, "lora_alpha") / (rank**0.5 if said.get("use_rslora") else rank)
    params = {}
    for name, of in found.items():
        for end, letter in (("a", "A"), ("b", "B")):
            stack = [of[i][letter].T for i in sorted(of)]
            if len({part.shape for part in stack}) != 1:
                raise InputError(f"{path}: the lora_{letter} of {name} differ in shape")
            params[f"layers.{name}.{end}"] = jnp.stack(stack)
    form = Form(next(iter(layers)), tuple(found), rank, scale * rank)
    return Adapter(form, params, None, (), {"peft": str(said.get("peft_version"))})


def _positive(path: Path, said: Mapping, name: str) -> int | float:
    value = said.get(name)
    whole = name == "r" and not isinstance(value, int)
    if isinstance(value, bool) or not isinstance(value, int | float) or whole:
        raise InputError(f"{path}: {name} is {value!r}, expected a number")
    if not 0 < value < 1e9:
        raise InputError(f"{path}: {name} is {value!r}, expected a positive number")
    return value
