"""Make a model's own benign training data: `make_benign.py MODEL OUT [COUNT]`.

First its answers to the harmless prompts of the training pairs, then COUNT prompts that it writes
as a user, with its answers; answers that are no training target are left out. OUT is a .jsonl file.
jaxdepth/data/benign.jsonl.gz was made with SmolLM2-135M-Instruct and COUNT 3160, then `gzip -9n`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxdepth.cli import guarded
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import HARMLESS, read_prompts
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.tune.benign import Answered, answer, make_benign
from jaxdepth.weights import checkpoint
from jaxdepth.weights.load import load


def main() -> int:
    path, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["3160"])[0])
    model, tokenizer = load(path)
    encoder, end_tokens = PromptEncoder(tokenizer), checkpoint.end_tokens(path, tokenizer)
    with progress_bar("answered", "prompts") as progress, out.open("w", encoding="utf-8") as file:
        pairs = _generate(model, encoder, tokenizer, end_tokens, count)
        for number, (kind, pair) in enumerate(pairs):
            row = {"kind": kind, "text": pair.prompt, "answer": pair.answer, "ended": pair.ended}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            progress(number, count)
    return 0


def _generate(
    model: Mistral, encoder: PromptEncoder, tokenizer, end_tokens: Sequence[int], count: int
) -> Iterator[tuple[str, Answered]]:
    harmless = [p.text for p in read_prompts(["builtin:pairs/train"]) if p.label == HARMLESS]
    for pair in answer(model, encoder, tokenizer, harmless, end_tokens):
        if pair is not None:
            yield "lookalike", pair
    for pair in make_benign(model, encoder, tokenizer, end_tokens, count):
        yield "benign", pair


if __name__ == "__main__":
    sys.exit(guarded(main))
