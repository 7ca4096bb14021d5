#!/usr/bin/env python
"""Compare exported folders, as other tools read them, with jaxdepth: the table of docs/weights.md.

python tools/exports_elsewhere.py [--transformers FOLDER] [--llama-cpp FOLDER --model MODEL]

Tiny models of every family and tokenizers of several kinds are exported, whole and truncated, and
read by the transformers of this environment, or of a folder that another version was installed to:

    pip install --target FOLDER "transformers==4.57.*"

With --llama-cpp, a folder that has llama.cpp's `convert_hf_to_gguf.py` (also in the source
distribution of llama-cpp-python, under `vendor/`), MODEL is truncated, exported, made to GGUF,
converted again, and compared by its logits and its tokenizer.
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


def through_llama_cpp(root: Path, folder: Path, model_path: Path, exit_layer: int) -> None:
    """Truncate, export, make to GGUF, convert again; print the largest difference of logits."""
    import jaxdepth
    from jaxdepth.weights.convert import convert
    from jaxdepth.weights.export import export

    export(model_path, root / "hf", exit_layer=exit_layer)
    paths = os.pathsep.join(filter(None, (str(folder / "gguf-py"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, folder / "convert_hf_to_gguf.py", root / "hf", "--outtype", "f32"]
    subprocess.run(
        [*command, "--outfile", root / "m.gguf"],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    convert(root / "m.gguf", root / "again")
    (model, tokenizer), (again, same) = jaxdepth.load(model_path), jaxdepth.load(root / "again")
    ids = np.array([tokenizer(TEXTS[0])["input_ids"]])
    lengths = np.array([ids.shape[1]])
    logits = [np.asarray(jaxdepth.exit_logits(m, ids, lengths, exit_layer)) for m in (model, again)]
    equal = [tokenizer(t)["input_ids"] == same(t)["input_ids"] for t in TEXTS]
    off, largest = np.abs(logits[0] - logits[1]).max(), np.abs(logits[0]).max()
    print(
        f"llama.cpp: {again.depth} layers, worst difference {off:.2g} of {largest:.3g}; "
        f"{sum(equal)} of {len(equal)} texts equal"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transformers", type=Path, help="folder of another version")
    parser.add_argument("--llama-cpp", type=Path, help="folder with convert_hf_to_gguf.py")
    parser.add_argument("--model", type=Path, help="checkpoint to truncate for llama.cpp")
    parser.add_argument("--exit", type=int, default=24, help="where to truncate it")
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)  # in the other process
    args = parser.parse_args()
    if args.compare:
        compare(args.compare)
        return 0
    with TemporaryDirectory() as folder:
        if args.llama_cpp:
            through_llama_cpp(Path(folder), args.llama_cpp, args.model, args.exit)
            return 0
        write_models(Path(folder))
        write_tokenizers(Path(folder))
        paths = [str(p) for p in (args.transformers, os.environ.get("PYTHONPATH")) if p]
        subprocess.run(
            [sys.executable, __file__, "--compare", folder],
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
