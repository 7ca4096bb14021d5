"""Make a model's own benign training data, or more of it: `make_benign.py MODEL OUT [COUNT]`.

First its answers to the harmless prompts of the training pairs and to the look-alikes that may be
trained on, then prompts that it writes as a user, with its answers, until there are COUNT; some
have a system prompt of ours. Answers that are no training target are left out. OUT is a .jsonl
file; what it has already is kept.

jaxdepth/data/benign.jsonl.gz was made with SmolLM2-135M-Instruct and COUNT 6081, in several runs
side by side whose lines were joined, then `gzip -9n`.
Its first 3,160 benign rows are those of release 0.1.0, whose judge let a few off-topic ones pass.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxdepth.cli import guarded
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import HARMLESS, read_prompts
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.tune.benign import Answered, answer, make_benign
from jaxdepth.weights import checkpoint
from jaxdepth.weights.load import load

# Kinds of look-alikes, and where their prompts are.
LOOKALIKES = {"lookalike": "builtin:pairs/train", "hard": "builtin:lookalikes/train"}


def main() -> int:
    path, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["6081"])[0])
    there = (
        [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    )
    with progress_bar("answered", "prompts") as progress, out.open("a", encoding="utf-8") as file:
        made = sum(row["kind"] == "benign" for row in there)
        for kind, pair in _generate(path, there, count - made):
            row = {"kind": kind, "text": pair.prompt, "answer": pair.answer, "ended": pair.ended}
            row |= {"system": pair.system} if pair.system else {}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            made += kind == "benign"
            progress(made, count)
    return 0


def _generate(path: Path, there: list[dict], count: int) -> Iterator[tuple[str, Answered]]:
    model, tokenizer = load(path)
    encoder, end_tokens = PromptEncoder(tokenizer), checkpoint.end_tokens(path, tokenizer)
    for kind, source in LOOKALIKES.items():
        if not any(row["kind"] == kind for row in there):
            prompts = [p.text for p in read_prompts([source]) if p.label == HARMLESS]
            answered = answer(model, encoder, tokenizer, prompts, end_tokens)
            yield from ((kind, pair) for pair in answered if pair is not None)
    if count > 0:
        others = [row["text"] for row in there if row["kind"] == "benign"]
        made = make_benign(model, tokenizer, end_tokens, count, others)
        yield from (("benign", pair) for pair in made)


if __name__ == "__main__":
    sys.exit(guarded(main))
