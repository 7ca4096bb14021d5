"""Print the table of docs/families.md: each format and family, converted, against transformers.

    python tools/families_table.py
    python tools/families_table.py GGUF mistral     # some formats, some families

Needs torch. Every row of tests/helpers/parity_grid.py is a tiny random model with the shape and the
quirks of a family. It is written in a format, converted by `jaxdepth.weights.convert`, loaded, and
run in float32 at every exit; transformers' own class of the family has the same weights. Of a
quantised model those are the weights that its codes and scales stand for, by the references of the
tests (tests/helpers/packing), which are written from each format's specification.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdepth
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import export

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
LIMIT = 1e-4
Cases = dict[str, dict]  # row -> config.json
Tensors = dict[str, np.ndarray]
# Rows of the table of quantised models, and the cases of tests/helpers/packing that are in each.
QUANTISED = {
    "FP8": ("fp8 in blocks", "fp8 in powers of two", "fp8 for tensors", "fp8 for outputs"),
    "compressed-tensors, FP8": ("float8", "float8 in blocks"),
    "compressed-tensors, int8": (
        "int8", "int8 for tensors", "int8, zero points", "int8 packed, zero points"
    ),
    "compressed-tensors, int4": (
        "int4 packed", "int4 packed, zero points", "int4 packed, act-order"
    ),
    "GPTQ, int4": ("gptq", "gptq v2, act-order"),
    "GPTQ, 2, 3 and 8 bits": ("gptq 2 bits", "gptq 3 bits", "gptq 8 bits, one group"),
    "AWQ, int4": ("awq",),
    "bitsandbytes, nf4": ("nf4", "nf4, nested"),
    "bitsandbytes, 8 bits": ("8 bits",),
}  # fmt: skip


class Format(NamedTuple):
    """A way to write a model, and the models that it can hold."""

    name: str
    write: Callable[[Path, dict, Tensors], Path]
    cases: Cases
    stored: Callable[[Tensors], Tensors] = lambda tensors: tensors  # what is written of them
    label: str | None = None  # its rows in one, with this name


def write_transformers(folder: Path, raw: dict, tensors: Tensors) -> Path:
    """A folder as transformers itself saves it."""
    from reference import hf_model

    hf_model(raw, tensors).save_pretrained(folder)
    return folder


def write_old_layout(folder: Path, raw: dict, tensors: Tensors) -> Path:
    """An image model by the names of transformers 4."""
    from folders.mistral import in_image_model
    from tiny import write_folder

    return write_folder(folder, raw, in_image_model(tensors, "transformers 4"))


def write_gguf(folder: Path, raw: dict, tensors: Tensors) -> Path:
    """A GGUF file of float32 tensors."""
    import gguf_files

    folder.mkdir()
    architecture = "mistral3" if raw["model_type"] == "mistral3" else None  # else by the family
    return gguf_files.write_gguf(folder / "m.gguf", raw, tensors, architecture=architecture)


def write_mistral(folder: Path, raw: dict, tensors: Tensors) -> Path:
    """A folder in Mistral's own format."""
    from folders.mistral import params_of, write_mistral_folder

    return write_mistral_folder(folder, raw, params_of(raw), tensors)


def write_quantised(case: str, folder: Path, raw: dict, tensors: Tensors) -> Path:
    """A folder whose matrices are packed."""
    from packing.cases import CASES, quantised_tensors
    from tiny import write_folder

    settings, pack = CASES[case]
    written, _ = quantised_tensors(pack, tensors)
    return write_folder(folder, raw | {"quantization_config": settings}, written)


def dequantised(case: str, tensors: Tensors) -> Tensors:
    """What the tensors of such a folder stand for."""
    from packing.cases import CASES, quantised_tensors

    return quantised_tensors(CASES[case][1], tensors)[1]


def formats() -> Iterable[Format]:
    """Each format, with the rows that it can hold."""
    from parity_grid import special_cases

    cases = special_cases()

    def of(*kinds: str, **keys) -> Cases:
        return {
            name: raw
            for name, raw in cases.items()
            if raw["model_type"] in kinds and all(raw.get(k) == v for k, v in keys.items())
        }

    yield Format("safetensors", write_transformers, cases)
    yield Format("safetensors, names of transformers 4", write_old_layout, of("mistral3"))
    # A GGUF cannot say which layers rotate, that only some have the window, or all that YaRN has.
    families = of("mistral", "mistral3", "llama", "qwen2", "qwen3", "ministral3")
    wordless = ("qwen2.5-window", "qwen3-window", "yarn-mscale", "yarn-whole")
    in_gguf = {name: raw for name, raw in families.items() if name not in wordless}
    absent = {"no_rope_layers": None, "layer_types": None, "num_hidden_layers": 8}
    yield Format("GGUF", write_gguf, in_gguf | {"smollm3, 8 layers": cases["smollm3"] | absent})
    own = of("mistral", rope_scaling=None) | of("ministral3")
    yield Format("Mistral's own", write_mistral, own)
    shapes = {"intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 2}
    packed = {n: cases[n] | shapes for n in ("mistral-7b-v0.2", "ministral-3", "qwen2")}
    for label, names in QUANTISED.items():
        for name in names:
            write, stored = partial(write_quantised, name), partial(dequantised, name)
            yield Format(name, write, packed, stored, label)


def largest_difference(source: Path, folder: Path, expected_EBV: np.ndarray) -> float:
    """Of the logits of a converted source, over all exits."""
    from tiny import prompts

    convert(source, folder, with_tokenizer=False)
    model, _ = jaxdepth.load(folder, dtype="float32")
    of_exits = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0))
    logits_EBV = np.asarray(of_exits(model, *prompts(), jnp.arange(1, model.depth + 1)))
    return float(np.abs(logits_EBV - expected_EBV).max())


def exported_difference(checkpoint: Path, folder: Path, expected_BV: np.ndarray) -> float:
    """Of the logits that transformers computes from an export, at full depth."""
    import torch
    from reference import hf_exit_logits
    from tiny import prompts
    from transformers import AutoModelForCausalLM

    export(checkpoint, folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    depth = model.config.num_hidden_layers
    return float(np.abs(hf_exit_logits(model, *prompts(), [depth])[0] - expected_BV).max())


def is_named(name: str, names: list[str], all_names: set[str]) -> bool:
    """Whether a format or a family is among the names given, or none of its kind is given."""
    return name in names or not all_names & {*names}


def compare(names: list[str]) -> dict[tuple[str, str, str], list[tuple[str, float]]]:
    """Of each row of the table, the family and the difference of each model.

    Args:
        names: of formats and families; none of a kind is all of it.
    """
    from reference import hf_exit_logits, hf_model
    from tiny import hf_tensors, prompts

    rows: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    references: dict[tuple[str, str | None], np.ndarray] = {}
    all_formats = list(formats())
    format_names = {form.label or form.name for form in all_formats}
    family_names = {raw["model_type"] for form in all_formats for raw in form.cases.values()}
    if unknown := {*names} - format_names - family_names:
        sys.exit(f"no format or family is called {', '.join(sorted(unknown))}")
    for form in all_formats:
        for name, raw in form.cases.items():
            row, family = form.label or form.name, raw["model_type"]
            if not is_named(row, names, format_names) or not is_named(family, names, family_names):
                continue
            config = ModelConfig.from_hf(raw)
            tensors, key = hf_tensors(config), (name, form.label and form.name)
            if key not in references:
                exits = range(1, config.num_hidden_layers + 1)
                model = hf_model(raw, form.stored(tensors))
                references[key] = hf_exit_logits(model, *prompts(), exits)
            shown = "" if form.label else family  # quantised models of all families are one row
            with tempfile.TemporaryDirectory() as scratch:
                place = Path(scratch)
                source = form.write(place / "source", raw, tensors)
                worst = largest_difference(source, place / "model", references[key])
                rows[row, shown, "logits at every exit"].append((family, worst))
                if form.write is write_transformers:
                    expected_BV = references[key][-1]
                    worst = exported_difference(place / "model", place / "exported", expected_BV)
                    rows["exported", shown, "logits at full depth"].append((family, worst))
    return rows


def main(names: list[str]) -> None:
    print("| format | family | what was compared | tiny models | largest difference |")
    print("|---|---|---|---|---|")
    rows = compare(names)
    for (format_name, _, compared), models in rows.items():
        families = ", ".join(f"`{family}`" for family in dict.fromkeys(f for f, _ in models))
        worst = max(difference for _, difference in models)
        print(f"| {format_name} | {families} | {compared} | {len(models)} | {worst:.1e} |")
    worst = max(difference for models in rows.values() for _, difference in models)
    if not worst <= LIMIT:
        sys.exit(f"the largest difference is {worst:.1e}, expected at most {LIMIT:g}")


if __name__ == "__main__":
    main(sys.argv[1:])
