"""SmolLM2-135M-Instruct from its GGUF against Hugging Face's own reading of the same file."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdepth
from jaxdepth.weights.sources import open_source
from jaxdepth.weights.tensor_map import GGUF_NAMES, HF_NAMES, tensor_map

GOLDEN = Path(__file__).parents[1] / "golden"


def test_logits_at_exits(smollm2, golden):
    model, _ = smollm2
    gold = golden("smollm2.npz")
    for e, exit in enumerate(gold["exits"]):
        logits = np.asarray(jaxdepth.exit_logits(model, gold["tokens"], gold["lengths"], int(exit)))
        assert np.abs(logits[:, gold["some"]] - gold["some_logits"][e]).max() < 1e-3
        top = np.take_along_axis(logits, gold["top"][e], -1)
        assert np.abs(top - gold["top_logits"][e]).max() < 1e-3
        total = np.logaddexp.reduce(logits.astype(np.float64), -1)
        assert np.abs(total - gold["logsumexp"][e]).max() < 1e-3
        assert (logits.argmax(-1) == gold["top"][e][:, 0]).all()


def test_greedy_tokens_at_exits(smollm2, golden):
    model, _ = smollm2
    gold = golden("smollm2.npz")
    start = int(gold["lengths"][0])
    for exit, expected in zip(gold["exits"], gold["greedy"], strict=True):
        tokens = np.zeros((1, start + len(expected)), np.int32)
        tokens[0, :start] = gold["tokens"][0, :start]
        for length in range(start, start + len(expected)):
            logits = jaxdepth.exit_logits(model, tokens, np.array([length]), int(exit))
            tokens[0, length] = int(logits[0].argmax())
        assert tokens[0, start:].tolist() == expected.tolist(), f"exit {exit}"


def test_dequantised_weights_equal_hugging_faces(gguf_file):
    golden = json.loads((GOLDEN / "smollm2_tensors.json").read_text())
    source = open_source(gguf_file)
    hf = {p.key: p.source for p in tensor_map(source.config, HF_NAMES)}
    for piece in tensor_map(source.config, GGUF_NAMES):
        array = source.read(piece)
        assert array.dtype == np.float32
        assert hashlib.sha256(array.tobytes()).hexdigest() == golden[hf[piece.key]], piece.key


def test_dequantised_weights_equal_a_slow_twin(gguf_file):
    """Q4_1: blocks of 32 weights, each a 4-bit number times a scale plus a minimum."""
    source = open_source(gguf_file)
    piece = next(p for p in tensor_map(source.config, GGUF_NAMES) if p.key == "layers.3.down")
    actual = source.read(piece)
    blocks = np.asarray(source._tensors[piece.source].data).reshape(-1, 20)
    scale, minimum = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32).T
    low, high = blocks[:, 4:] & 15, blocks[:, 4:] >> 4
    quants = np.concatenate([low, high], axis=1).astype(np.float32)
    expected = quants * scale[:, None] + minimum[:, None]
    assert np.allclose(actual.ravel(), expected.ravel(), rtol=1e-6, atol=1e-7)


def test_tokenizer_ids(smollm2):
    _, tokenizer = smollm2
    corpus = json.loads((GOLDEN / "corpus.json").read_text())
    golden = json.loads((GOLDEN / "corpus_ids.json").read_text())
    for text, expected in zip(corpus, golden, strict=True):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text
        assert tokenizer.decode(expected) == text


def test_tokenizer_cuts_digits_before_merging(smollm2):
    """Where transformers' GGUF reader and the model's own tokenizer differ: we follow the model."""
    _, tokenizer = smollm2
    ids = tokenizer("   5", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["ĠĠĠ", "5"]


@pytest.mark.live
def test_live_logits(smollm2, gguf_file, golden, torch):
    from reference import hf_exit_logits, hf_model

    source = open_source(gguf_file)
    hf_names = {p.key: p for p in tensor_map(source.config, HF_NAMES)}
    tensors = {
        hf_names[p.key].source: source.read(p) for p in tensor_map(source.config, GGUF_NAMES)
    }
    hf = hf_model(source.raw_config, tensors)
    gold = golden("smollm2.npz")
    tokens, lengths = gold["tokens"][:1], gold["lengths"][:1]
    exits = np.arange(1, 31)
    at_exits = jax.jit(jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0)))
    actual = np.asarray(at_exits(smollm2[0], tokens, lengths, exits))
    expected = hf_exit_logits(hf, tokens, lengths, exits)
    assert actual.shape == expected.shape == (30, 1, actual.shape[-1])
    assert np.abs(actual - expected).max() < 1e-3
    assert np.array_equal(actual.argmax(-1), expected.argmax(-1))
