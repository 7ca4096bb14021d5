"""Describe adapters: files of `jaxdepth tune`, and PEFT folders."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.files import read_arrays, read_json
from jaxdepth.model.tuned import Form
from jaxdepth.settings_file import build
from jaxdepth.study.inspection.description import (
    Description,
    Rows,
    format_bytes,
    format_values,
    name_first,
    truncate,
)
from jaxdepth.study.inspection.models import file_size, template_text, tokenizer_rows
from jaxdepth.study.wording import runs_of_exits
from jaxdepth.weights.adapter import FORMAT, Header, adapter_digest
from jaxdepth.weights.huggingface.adapter_tokenizer import load_own_tokenizer
from jaxdepth.weights.huggingface.peft import PEFT_WEIGHTS, read_factors
from jaxdepth.weights.huggingface.peft_config import PEFT_CONFIG, changes_base, read_peft_settings
from jaxdepth.weights.huggingface.peft_header import PeftHeader, read_peft_header
from jaxdepth.weights.huggingface.tokenizer_files import tokenizer_files


def describe_adapter(path: Path) -> Description:
    """Describe an adapter that `jaxdepth tune` made.

    Raises:
        InputError: it is damaged, or something else.
    """
    arrays, header = read_arrays(path, "an adapter", FORMAT, Header)
    made, tokens = header["made"], header["tokens"]
    what, where = _form_words(build(Form, header["form"], f"{path}: form"))
    numbers = sum(array.size for array in arrays.values())
    size = format_bytes(sum(array.nbytes for array in arrays.values()))
    dtypes = ", ".join(dict.fromkeys(str(array.dtype) for array in arrays.values()))
    rows = [
        ("form", what),
        ("of", where),
        ("arrays", f"{len(arrays)}, {numbers:,} numbers, {size} of {dtypes}"),
        ("base", str(header["base"] or "unknown")),
        ("new tokens", ", ".join(tokens) or "none"),
        ("file", file_size(path)),
        ("sha256", adapter_digest(str(path))),
        ("settings", format_values(made.get("settings") or {})),
        ("made by", format_values(made.get("versions") or {})),
    ]
    card = path.with_suffix(".md")
    rows += [("card", str(card))] if card.is_file() else []
    return Description("an adapter of jaxdepth", rows)


def is_peft_folder(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model of its own.

    A `config.json` may lie beside the adapter: some trainers copy that of the base.
    """
    if not any((path / name).is_file() for name in (PEFT_CONFIG, PEFT_WEIGHTS)):
        return False
    return all(file.name.startswith("adapter_model") for file in path.glob("*.safetensors"))


def describe_peft(path: Path) -> Description:
    """Describe an adapter that PEFT saved, and whether it loads.

    Raises:
        InputError: its config is no JSON.
    """
    settings = read_peft_settings(path) if (path / PEFT_CONFIG).is_file() else {}
    try:
        header = read_peft_header(path) if (path / PEFT_WEIGHTS).is_file() else None
    except InputError:
        header = None  # `_loads` says so
    files = [path / name for name in (PEFT_CONFIG, PEFT_WEIGHTS) if (path / name).is_file()]
    start = settings.get("init_lora_weights", True)
    is_changed = changes_base(start)
    effect = ", which changes the base" if is_changed else ", on the base as it was published"
    base = str(settings.get("base_model_name_or_path") or "unknown")
    revision = settings.get("revision")
    rows = [
        ("form", _peft_form(settings, header)),
        *([] if header is None else _peft_arrays(header)),
        ("initialised", f"{_as_text(start)}{'' if is_changed is None else effect}"),
        ("base", base + (f", revision {_as_text(revision)}" if revision else "")),
        *_own_tokenizer_rows(path),
        *name_first("file", [file_size(file) for file in files]),
        *([("sha256", adapter_digest(str(path)))] if len(files) == 2 else []),
        ("made by", f"PEFT {_as_text(settings.get('peft_version') or 'unknown')}"),
        ("loads", _loads(path, header)),
    ]
    return Description("a PEFT adapter", rows)


def _peft_form(settings: Mapping, header: PeftHeader | None) -> str:
    """The kind of adapter, its ranks and its scale."""
    kind = settings.get("peft_type")
    ranks = [settings.get("r")] if header is None or not header.ranks else header.ranks
    text = "LoRA" if kind == "LORA" else _as_text(kind)
    text += f", rank{'s' * (len(ranks) > 1)} {truncate(', '.join(map(_as_text, ranks)))}"
    text += f", alpha {_as_text(settings.get('lora_alpha'))}"
    text += " (and others by module)" if settings.get("alpha_pattern") else ""
    return text + (", scaled by the root of the rank" if settings.get("use_rslora") else "")


def _peft_arrays(header: PeftHeader) -> Rows:
    """Which matrices of which layers have factors, and how large they are."""
    of_layers: dict[str, list[str]] = {}
    for name, layers in header.layers.items():
        of_layers.setdefault(_layers_text(layers), []).append(name)
    texts = [f"{', '.join(names)} of layers {layers}" for layers, names in of_layers.items()]
    numbers = sum(math.prod(tensor.shape) for tensor in header.tensors.values())
    dtypes = Counter(tensor.dtype for tensor in header.tensors.values())
    size = ", ".join(f"{count} of {dtype}" for dtype, count in dtypes.most_common())
    return [
        ("of", "; ".join(texts) or "no matrix of a layer"),
        ("tensors", f"{size}, {numbers:,} numbers"),
    ]


def _own_tokenizer_rows(path: Path) -> Rows:
    """What an adapter brings in place of the base's tokenizer and chat template."""
    names = tokenizer_files(path)
    if not names:
        return [("tokenizer", "none of its own: the base's is used")]
    try:
        own = load_own_tokenizer(path)
        if own is not None:
            return tokenizer_rows(own)
        template = _own_template(path)
    except InputError:
        return []  # `_loads` says why
    rows = [("tokenizer", f"the base's, changed by {', '.join(names)}")]
    return [*rows, ("chat template", template_text(template))] if template else rows


def _own_template(path: Path) -> object:
    """The chat template in a file of its own, or in the tokenizer's config."""
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text("utf-8", errors="replace")
    file = path / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    return config.get("chat_template") if isinstance(config, dict) else None


def _loads(path: Path, header: PeftHeader | None) -> str:
    """What loading does with a PEFT folder, or why it refuses it."""
    try:
        load_own_tokenizer(path)
        layers, shapes = ([], {}) if header is None else (header.all_layers, header.shapes)
        read_factors(path, shapes, layers)
    except InputError as error:
        return f"no: {error}"
    matrices = ", ".join(f"{name} {i:,} x {o:,}" for name, (i, o) in shapes.items())
    return (
        f"yes, with --adapter: merged into a base of {max(layers) + 1} layers or more with "
        f"{matrices} (inputs x outputs)"
    )


def _as_text(value: object) -> str:
    return truncate(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _layers_text(layers: Sequence[int]) -> str:
    """Layers from 0 as they are named, from 1."""
    numbers = np.array(layers, int) + 1
    return runs_of_exits(numbers, numbers > 0)


def _form_words(form: Form) -> tuple[str, str]:
    """What was trained, and of which layers or exits."""
    if form.lens_exits:
        exits = np.array(form.lens_exits, int)
        return f"a lens, rank {form.lens_rank}", f"exits {runs_of_exits(exits, exits > 0)}"
    layers = np.array(form.layers, int) + 1
    where = f"{', '.join(form.leaves)} of layers {runs_of_exits(layers, layers > 0)}"
    if form.rank is None:
        return "weights", where
    return f"LoRA, rank {form.rank}, alpha {form.alpha}", where
