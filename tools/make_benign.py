"""What a model is tuned on besides refusals, made by itself: `make_benign.py MODEL OUT [COUNT]`.

Its answers to the harmless look-alikes that are for training, then COUNT prompts that it writes in
a user's place, with its answers; only what is fit to learn from. OUT is a .jsonl file.
jaxdepth/data/benign.jsonl.gz was made with SmolLM2-135M-Instruct and COUNT 3160, then `gzip -9n`.
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


def main() -> int:
    path, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["3160"])[0])
    model, tokenizer = load(path)
    speaker = (model, PromptEncoder(tokenizer), tokenizer, checkpoint.end_tokens(path, tokenizer))
    with progress_bar("answered", "prompts") as progress, out.open("w", encoding="utf-8") as file:
        for number, (kind, found) in enumerate(_every(speaker, count)):
            row = {"kind": kind, "text": found.prompt, "answer": found.answer, "ended": found.ended}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            progress(number, count)
    return 0


def _every(speaker, count: int) -> Iterator[tuple[str, Answered]]:
    alike = [p.text for p in read_prompts(["builtin:pairs/train"]) if p.label == HARMLESS]
    for found in answer(*speaker[:3], alike, speaker[3]):
        if found is not None:
            yield "lookalike", found
    for found in make_benign(*speaker, count):
        yield "benign", found


if __name__ == "__main__":
    sys.exit(guarded(main))
