"""Adapter files: what tuning trained, without the base.

One safetensors file holds the arrays of `jaxdepth.model.tuned` and, in its metadata, their form,
the fingerprint of their base, new tokens, and how they were made. PEFT's LoRA folders are read too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.files import read_arrays, save_arrays
from jaxdepth.model import AnyArray, FastTokenizer
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.model.tuned import LENS, Form, lens_shape, merge
from jaxdepth.settings_file import build
from jaxdepth.weights.huggingface.peft import PEFT_WEIGHTS, read_peft
from jaxdepth.weights.huggingface.peft_config import PEFT_CONFIG
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_files

FORMAT = "jaxdepth-adapter-1"


class Made(TypedDict):
    """How an adapter was made."""

    settings: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str]]


class Header(TypedDict):
    """What the metadata of an adapter's file hold."""

    form: dict[str, Any]  # see `Form`
    base: str | None
    tokens: list[str]
    made: Made


@dataclass(frozen=True)
class Adapter:
    """What was trained, for which base, and how."""

    form: Form
    params: Mapping[str, Float[AnyArray, "..."]]  # by the names of `model.tuned.Params`
    base: str | None  # fingerprint of the base; None if the file has none
    tokens: tuple[str, ...]  # new special tokens
    made: Mapping  # settings, digest of the data, versions


def save_adapter(path: Path, adapter: Adapter, dtype: DTypeLike = "bfloat16") -> None:
    """Write an adapter file, its arrays rounded to `dtype`."""
    metadata = {
        "format": FORMAT,
        "form": asdict(adapter.form),
        "base": adapter.base,
        "tokens": adapter.tokens,
        "made": adapter.made,
    }
    arrays = {k: np.asarray(v).astype(jnp.dtype(dtype)) for k, v in adapter.params.items()}
    save_arrays(path, arrays, metadata)


def find_adapter(name: str) -> Path:
    """The path of an adapter: `builtin:NAME`, a file, or a PEFT folder.

    Raises:
        InputError: there is none.
    """
    if name.startswith("builtin:"):
        folder = files("jaxdepth") / "data" / "adapters"
        entries = folder.iterdir() if folder.is_dir() else ()
        suffix = ".safetensors"
        builtin = {f.name.removesuffix(suffix): f for f in entries if f.name.endswith(suffix)}
        key = name.removeprefix("builtin:")
        if key not in builtin:
            raise InputError(f"no built-in adapter {key!r}{nearest(key, builtin)}")
        return Path(str(builtin[key]))
    if not Path(name).exists():
        raise InputError(f"no adapter {name}: expected a .safetensors file or a PEFT folder")
    return Path(name)


def adapter_digest(name: str) -> str:
    """SHA-256 of an adapter's file, or of a PEFT folder's config, weights and tokenizer."""
    path = find_adapter(name)
    contents = [path / PEFT_CONFIG, path / PEFT_WEIGHTS] if path.is_dir() else [path]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in contents))
    for file in tokenizer_files(path) if path.is_dir() else ():
        digest.update(file.encode() + (path / file).read_bytes())
    return digest.hexdigest()


def brings_tokenizer(name: str) -> bool:
    """Whether an adapter is a PEFT folder with a tokenizer or a chat template of its own."""
    path = find_adapter(name)
    return path.is_dir() and bool(tokenizer_files(path))


def brings_tokens(name: str) -> bool:
    """Whether an adapter adds tokens, as one that decides by a verdict token does."""
    path = find_adapter(name)
    return not path.is_dir() and bool(_read_file(path).tokens)


def settings_of(name: str) -> Mapping:
    """The settings that an adapter was made with; empty for a PEFT folder."""
    path = find_adapter(name)
    return {} if path.is_dir() else _read_file(path).made.get("settings", {})


def read_adapter(name: str, config: ModelConfig) -> Adapter:
    """Read an adapter.

    Args:
        name: as for `find_adapter`.
        config: the shape of its base.

    Raises:
        InputError: there is none, it is damaged, or it is for a model of another shape.
    """
    path = find_adapter(name)
    if path.is_dir():
        form, params, version = read_peft(path, config)
        adapter = Adapter(form, params, None, (), {"peft": version})
    else:
        adapter = _read_file(path)
    _check_form(path, adapter, config)
    shapes = parameter_shapes(config)
    missing = adapter.form.keys(config.tie_word_embeddings) - set(adapter.params)
    if missing:
        raise InputError(f"{path} lacks {listed(sorted(missing))}: it is damaged")
    for key, array in adapter.params.items():
        expected = _expected_shape(key, adapter, shapes)
        if tuple(array.shape) != expected:
            raise InputError(
                f"{path}: {key} is {tuple(array.shape)}, expected {expected}: the adapter is for "
                "another model"
            )
    return adapter


def apply_adapter(
    model: Mistral, tokenizer: FastTokenizer | None, fingerprint: str, adapter: Adapter, name: str
) -> Mistral:
    """Merge an adapter into its base, and add its new tokens to the tokenizer.

    Args:
        model: the base.
        tokenizer: of the base; it is changed if the adapter has new tokens.
        fingerprint: of the base.
        adapter: from `read_adapter`.
        name: of the adapter, for messages.

    Returns:
        The merged model.

    Raises:
        InputError: the adapter was made for another base, or its tokens do not fit the tokenizer.
    """
    check_base(adapter, fingerprint, name)
    if adapter.tokens:
        if tokenizer is None:
            raise InputError(f"{name} brings new tokens, and the checkpoint has no tokenizer")
        if add_tokens(tokenizer, adapter.tokens) != adapter.form.first_new:
            raise InputError(f"{name}: its new tokens have other ids in this tokenizer")
    params = {name: jnp.asarray(array) for name, array in adapter.params.items()}
    return merge(model, params, adapter.form)


def check_base(adapter: Adapter, fingerprint: str, name: str) -> None:
    """Raise InputError if an adapter names another base than the one with this fingerprint."""
    if adapter.base is not None and adapter.base != fingerprint:
        raise InputError(
            f"{name} was made for the base {adapter.base[:12]}, this checkpoint is "
            f"{fingerprint[:12]}: name that base, or another adapter"
        )


def add_tokens(tokenizer: FastTokenizer, tokens: tuple[str, ...]) -> int:
    """Add special tokens to a tokenizer; returns the id of the first.

    Raises:
        InputError: the tokenizer already has one of them.
    """
    first_id = len(tokenizer)
    existing = [token for token in tokens if token in tokenizer.get_vocab()]
    if existing:
        raise InputError(f"the tokenizer already has {listed(existing)}")
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return first_id


def _check_form(path: Path, adapter: Adapter, config: ModelConfig) -> None:
    """Check that the layers, exits and tokens of an adapter are some of a model's, each once."""
    form, depth = adapter.form, config.num_hidden_layers
    for name, numbers, first in (("layers", form.layers, 0), ("lens_exits", form.lens_exits, 1)):
        if len(set(numbers)) < len(numbers) or not all(first <= n < depth + first for n in numbers):
            raise InputError(
                f"{path}: its {name} are {listed(map(str, numbers), 9)}, this model has {depth} "
                "layers: it is damaged, or for another model"
            )
    if (form.first_new is None) != (not adapter.tokens):
        raise InputError(
            f"{path}: the first new token has the id {form.first_new}, and there are "
            f"{len(adapter.tokens)} new tokens: it is damaged"
        )


def _expected_shape(
    key: str, adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    form, layers = adapter.form, len(adapter.form.layers)
    if key in LENS:
        return lens_shape(key, form, shapes["embed"][1])
    if key.endswith("_rows"):
        return (len(adapter.tokens), shapes["embed"][1])
    name = key.removesuffix(".a").removesuffix(".b")
    if name not in shapes:
        raise InputError(f"an adapter's array {key} belongs to no weight of this model")
    shape = shapes[name]
    if form.rank is None:
        return (layers, *shape[1:]) if name.startswith("layers.") else shape
    return (layers, shape[1], form.rank) if key.endswith(".a") else (layers, form.rank, shape[2])


def _read_file(path: Path) -> Adapter:
    arrays, header = read_arrays(path, "an adapter", FORMAT, Header)
    form = build(Form, header["form"], f"{path}: form")
    params = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    return Adapter(form, params, header["base"], tuple(header["tokens"]), header["made"])
