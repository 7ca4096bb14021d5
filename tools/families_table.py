"""Print the table of docs/families.md: each format and family, converted, against transformers.

    python tools/families_table.py
    python tools/families_table.py GGUF mistral     # some formats, some families

Needs torch. Every row of tests/helpers/parity_grid.py is a tiny random model with the shape and the
quirks of a family. It is written in a format, converted by `jaxdepth.weights.convert`, loaded, and
run in float32 at every exit; transformers' own class of the family has the same weights.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

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


def write_transformers(folder: Path, raw: dict, tensors: dict) -> Path:
    """A folder as transformers itself saves it."""
    from reference import hf_model

    hf_model(raw, tensors).save_pretrained(folder)
    return folder


def write_old_layout(folder: Path, raw: dict, tensors: dict) -> Path:
    """An image model by the names of transformers 4."""
    from mistral_folders import in_image_model
    from tiny import write_folder

    return write_folder(folder, raw, in_image_model(tensors, "transformers 4"))


def write_gguf(folder: Path, raw: dict, tensors: dict) -> Path:
    """A GGUF file of float32 tensors."""
    import gguf_files

    folder.mkdir()
    window = raw["sliding_window"] if raw["model_type"] == "mistral" else None
    metadata = {} if window is None else {"llama__attention__sliding_window": window}
    return gguf_files.write_gguf(folder / "m.gguf", raw, tensors, **metadata)


def write_mistral(folder: Path, raw: dict, tensors: dict) -> Path:
    """A folder in Mistral's own format."""
    from mistral_folders import params_of, write_mistral_folder

    return write_mistral_folder(folder, raw, params_of(raw), tensors)


def formats() -> Iterable[tuple[str, Callable[[Path, dict, dict], Path], Cases]]:
    """Each format: its name, what writes it, and the rows that it can hold."""
    from parity_grid import special_cases

    cases = special_cases()

    def of(*kinds: str, **keys) -> Cases:
        return {
            name: raw
            for name, raw in cases.items()
            if raw["model_type"] in kinds and all(raw.get(k) == v for k, v in keys.items())
        }

    yield "safetensors", write_transformers, cases
    yield "safetensors, names of transformers 4", write_old_layout, of("mistral3")
    plain = of("mistral", "llama", "qwen2", rope_scaling=None, use_sliding_window=None)
    yield "GGUF", write_gguf, plain | {n: cases[n] for n in ("qwen2", "qwen2.5")}
    yield "Mistral's own", write_mistral, of("mistral", rope_scaling=None) | of("ministral3")


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


def compare(names: list[str]) -> dict[tuple[str, str, str], list[float]]:
    """The differences of each format, family and comparison; `names` are what is compared."""
    from reference import hf_exit_logits, hf_model
    from tiny import hf_tensors, prompts

    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    references: dict[str, np.ndarray] = {}
    all_formats = list(formats())
    format_names = {name for name, _, _ in all_formats}
    family_names = {raw["model_type"] for _, _, cases in all_formats for raw in cases.values()}
    if unknown := {*names} - format_names - family_names:
        sys.exit(f"no format or family is called {', '.join(sorted(unknown))}")
    for format_name, write, cases in all_formats:
        for name, raw in cases.items():
            if not is_named(format_name, names, format_names):
                continue
            if not is_named(raw["model_type"], names, family_names):
                continue
            config = ModelConfig.from_hf(raw)
            tensors, family = hf_tensors(config), raw["model_type"]
            if name not in references:
                exits = range(1, config.num_hidden_layers + 1)
                references[name] = hf_exit_logits(hf_model(raw, tensors), *prompts(), exits)
            with tempfile.TemporaryDirectory() as scratch:
                place = Path(scratch)
                source = write(place / "source", raw, tensors)
                worst = largest_difference(source, place / "model", references[name])
                found[format_name, family, "logits at every exit"].append(worst)
                if write is write_transformers:
                    worst = exported_difference(
                        place / "model", place / "exported", references[name][-1]
                    )
                    found["exported", family, "logits at full depth"].append(worst)
    return found


def main(names: list[str]) -> None:
    print("| format | family | what was compared | tiny models | largest difference |")
    print("|---|---|---|---|---|")
    found = compare(names)
    for (format_name, family, compared), differences in found.items():
        print(
            f"| {format_name} | `{family}` | {compared} | {len(differences)} | "
            f"{max(differences):.1e} |"
        )
    worst = max(map(max, found.values()))
    if not worst <= LIMIT:
        sys.exit(f"the largest difference is {worst:.1e}, expected at most {LIMIT:g}")


if __name__ == "__main__":
    main(sys.argv[1:])
