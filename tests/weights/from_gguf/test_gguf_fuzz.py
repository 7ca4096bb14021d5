"""Damaged metadata of GGUF files: refused in one clear line, or read as the file says."""

import shutil
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from gguf import GGUFReader
from gguf_files import fields_of, sentencepiece_fields, write_gguf
from mutants.gguf import mutate_gguf
from mutants.gguf_fields import mutate_fields
from mutants.harness import fuzz, refused_conversion
from parity_grid import LLAMA, LLAMA3, MINISTRAL3
from tiny import hf_tensors, leaves_of, raw_config

import jaxdepth
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.rope import inverse_frequencies
from jaxdepth.weights.convert import convert

# What is refused is a message of ours, not of the types that tests check.
pytestmark = pytest.mark.usefixtures("unchecked_shapes")
SIZES = {
    "vocab_size": 1000, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
RAWS = {
    "rope_freqs": raw_config(**LLAMA | SIZES, rope_theta=5e5, rope_scaling=LLAMA3),
    "yarn": raw_config(**MINISTRAL3 | SIZES),
}
FIELDS = {"rope_freqs": sentencepiece_fields(), "yarn": fields_of("tekken")}
TEXTS = ("the aba heab", "  hehe th\n", "tab \u00e9\u00e9 \u4f60 a")
NORMAL, USER_DEFINED, BYTE = 1, 4, 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with a SentencePiece tokenizer and divisors of frequencies, and one with YaRN."""
    place = tmp_path_factory.mktemp("whole")
    for name, raw in RAWS.items():
        fields = {key.replace(".", "__"): value for key, value in FIELDS[name].items()}
        tensors = hf_tensors(ModelConfig.from_hf(raw))
        convert(write_gguf(place / f"{name}.gguf", raw, tensors, **fields), place / name)
    return place


def mutant(whole, name, place, rng, done):
    """Refused with nothing left behind; or the same weights, and what the metadata says."""
    source, target = place / "m.gguf", place / "target"
    shutil.copy(whole / f"{name}.gguf", source)
    keeps_tensors = rng.random() < 0.85
    if keeps_tensors:
        done.append(mutate_fields(source, np.random.default_rng(rng.getrandbits(64))))
    else:
        done.append(mutate_gguf(source, rng))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    reader = GGUFReader(source)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    config, _ = read_config(target / "config.json")
    check_rope(config, fields, {t.name: t.data for t in reader.tensors})
    if keeps_tensors:
        model, tokenizer = jaxdepth.load(target)
        expected = leaves_of(config, hf_tensors(ModelConfig.from_hf(RAWS[name])))
        for key, array in expected.items():
            module = model.layers if "." in key else model
            actual = np.asarray(getattr(module, key.removeprefix("layers."))[...])
            assert np.array_equal(actual, array), key
        if tokenizer is not None and fields["tokenizer.ggml.model"] == "llama":
            check_ids(tokenizer, fields)
    return None


def check_rope(config, fields, tensors):
    """Frequencies and sizes are those of the file, by plain code."""
    prefix = fields["general.architecture"] + "."
    own = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    assert config.hidden_size == own["embedding_length"]
    assert config.num_hidden_layers == own["block_count"]
    assert config.max_position_embeddings == own["context_length"]
    assert config.rms_norm_eps == own["attention.layer_norm_rms_epsilon"]
    assert config.num_key_value_heads == own.get(
        "attention.head_count_kv", own["attention.head_count"]
    )
    theta = own.get("rope.freq_base", 10000.0)
    plain = theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    kind, scaling = own.get("rope.scaling.type", "linear"), config.rope.scaling
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear", 0)) or 1.0
    actual = inverse_frequencies(config.rope, config.head_dim)
    if "rope_freqs.weight" in tensors:
        expected = plain / tensors["rope_freqs.weight"]
        np.testing.assert_allclose(actual, expected, rtol=3e-5)
    elif kind == "yarn" and factor != 1:
        original = own.get("rope.scaling.original_context_length", own["context_length"])
        assert (scaling.factor, scaling.original_max_position_embeddings) == (factor, original)
        assert np.float32(scaling.beta_fast) == own.get("rope.scaling.yarn_beta_fast", 32)
        assert np.float32(scaling.beta_slow) == own.get("rope.scaling.yarn_beta_slow", 1)
    else:
        expected = plain if kind == "none" else plain / factor
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    beta = own.get("attention.temperature_scale") or None
    assert (config.query_scaling and np.float32(config.query_scaling.beta)) == beta


def check_ids(tokenizer, fields):
    """Neighbours are joined by the score of the piece that they make, the best and leftmost first.

    Only for texts in which nothing is found before that.
    """
    p = "tokenizer.ggml."
    tokens, types = fields[p + "tokens"], fields[p + "token_type"]
    scores = fields[p + "scores"]
    pieces = {t: s for t, s, kind in zip(tokens, scores, types, strict=True) if kind == NORMAL}
    added = [t for t, kind in zip(tokens, types, strict=True) if kind not in (NORMAL, BYTE)]
    prefix = "\u2581" if fields.get(p + "add_space_prefix", True) else ""
    for text in TEXTS:
        spaced = text.replace(" ", "\u2581")
        if any(token and (token in text or token in spaced) for token in added):
            continue
        parts = list(prefix + spaced)
        while True:
            scored = [pieces.get(a + b, -np.inf) for a, b in pairwise(parts)]
            place = int(np.argmax(scored)) if scored else 0
            if not scored or scored[place] == -np.inf:
                break
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
        expected = []
        for part in parts:
            raw = [f"<0x{byte:02X}>" for byte in part.encode()]
            expected += [part] if part in tokens else raw
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == expected


@pytest.mark.parametrize("name", RAWS)
@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_damage_is_refused_or_harmless(whole, tmp_path, name, count):
    refused = fuzz(name, count, tmp_path, partial(mutant, whole, name))
    assert 0.3 * count < refused < count
