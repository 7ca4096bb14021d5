"""GGUF: every quantisation, parts, and the qwen2 architecture."""

from dataclasses import replace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize, quantize
from gguf.constants import GGML_QUANT_SIZES
from gguf_files import write_gguf
from parity_grid import families
from tiny import hf_tensors, raw_config

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.weights.sources import open_source
from jaxdepth.weights.tensor_map import GGUF_NAMES, HF_NAMES, tensor_map

RAW = raw_config(model_type="llama", num_hidden_layers=2, sliding_window=None)
TENSORS = hf_tensors(ModelConfig.from_hf(RAW))


def read_all(source) -> dict[str, np.ndarray]:
    """Every tensor of a source by its name in a Hugging Face checkpoint."""
    opened = open_source(source)
    both = zip(
        tensor_map(opened.config, HF_NAMES), tensor_map(opened.config, GGUF_NAMES), strict=True
    )
    return {hf.source: opened.read(gguf) for hf, gguf in both}


# Quantisations

BIG = raw_config(
    model_type="llama",
    num_hidden_layers=16,
    vocab_size=32,
    hidden_size=256,
    intermediate_size=256,
)


def can_read(kind: GGMLQuantizationType) -> bool:
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


READABLE = [kind for kind in GGMLQuantizationType if can_read(kind)]


def blocks_of(kind: GGMLQuantizationType, array: np.ndarray, rng) -> tuple[np.ndarray, bool]:
    """The array in a quantisation, or random valid blocks where `gguf` only dequantises it."""
    try:
        return quantize(array, kind), True
    except NotImplementedError:
        size, width = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (array.size // size, width)).astype(np.uint8)
        with np.errstate(all="ignore"):
            while True:  # random scales may be NaN or huge
                values = np.abs(dequantize(blocks, kind))
                bad = ~(values < 1e6).all(axis=-1)
                if not bad.any():
                    return blocks.reshape(len(array), -1), False
                blocks[bad] = rng.integers(0, 256, (bad.sum(), width))


def test_every_quantisation_that_gguf_reads(tmp_path):
    assert len(READABLE) >= 24
    rng, config = np.random.default_rng(0), ModelConfig.from_hf(BIG)
    tensors, kinds, expected, close = hf_tensors(config), {}, {}, {}
    names = [n for n in tensors if n.endswith(("gate_proj.weight", "down_proj.weight"))]
    for name, kind in zip(names, READABLE, strict=False):
        blocks, from_values = blocks_of(kind, tensors[name], rng)
        expected[name], kinds[name] = dequantize(blocks, kind), kind
        if from_values:
            close[name] = tensors[name]
        tensors[name] = blocks
    assert len(kinds) == len(READABLE)
    read = read_all(write_gguf(tmp_path / "m.gguf", BIG, tensors, kinds))
    for name, array in expected.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], array, err_msg=kinds[name].name)
    assert len(close) >= 6
    for name, array in close.items():  # the values, not only the same reading of the same bytes
        assert np.corrcoef(read[name].ravel(), array.ravel())[0, 1] > 0.65, kinds[name].name
    for name, array in tensors.items():
        if name not in kinds:
            np.testing.assert_array_equal(read[name], array, err_msg=name)


def test_a_type_that_gguf_does_not_read_is_named(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    source = write_gguf(tmp_path / "m.gguf", RAW, TENSORS | {name: np.float64(TENSORS[name])})
    with pytest.raises(InputError, match=r"blk.1.ffn_up.weight of type F64 cannot be dequantised"):
        read_all(source)


# Parts


@pytest.fixture
def parts(tmp_path):
    files = write_gguf(tmp_path / "m.gguf", RAW, TENSORS, parts_of=8)
    assert [p.name for p in files] == [f"m-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    return files


@pytest.mark.parametrize("named", [0, 1, 2])
def test_parts_are_one_model_whichever_is_named(parts, named):
    opened = open_source(parts[named])
    assert opened.files == parts
    read = read_all(parts[named])
    assert set(read) == set(TENSORS)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


# Each damages the parts, and returns the file that is then opened.


def lose(parts):
    parts[1].unlink()
    return parts[2]


def add(parts):
    (parts[0].parent / "m-00004-of-00003.gguf").write_bytes(parts[2].read_bytes())
    return parts[0]


def swap(parts):
    between = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    parts[2].write_bytes(between)
    return parts[0]


def rename(parts):
    for part in parts[:2]:
        part.rename(part.with_name(part.name.replace("-00003.", "-00002.")))
    return parts[0].with_name("m-00001-of-00002.gguf")


def alone(parts):
    return parts[1].rename(parts[1].with_name("alone.gguf"))


def foreign(parts):
    raw = RAW | {"num_hidden_layers": 1}
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    other = write_gguf(parts[0].parent / "n.gguf", raw, tensors, parts_of=5)
    assert len(other) == 3
    parts[1].write_bytes(other[1].read_bytes())
    return parts[0]


def truncate(parts):
    parts[2].write_bytes(parts[2].read_bytes()[:-1000])
    return parts[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose, "lacks m-00002-of-00003.gguf: fetch the missing"),
        (add, "has m-00004-of-00003.gguf: there is no such part"),
        (swap, r"m-00002-of-00003.gguf says that it is part 3 of 3, but by its name it is 2 of 3"),
        (
            alone,
            r"alone.gguf says that it is part 2 of 3, but by its name it is 1 of 1.*NAME-00002",
        ),
        (
            foreign,
            r"m-00002-of-00003.gguf is of a model of 12 tensors, the first part of one of 21",
        ),
        (truncate, r"m-00003-of-00003.gguf is not a readable GGUF file"),
        (rename, r"m-00001-of-00002.gguf says that it is part 1 of 3, but by its name it is 1 of"),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_parts_that_do_not_fit(parts, damage, message):
    source = damage(parts)
    with pytest.raises(InputError, match=message) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)


def test_a_part_of_a_similar_model(parts):
    """As many tensors in as many parts, but in another order: one of them is there twice."""
    other = write_gguf(parts[0].parent / "n.gguf", RAW, TENSORS, parts_of=8, order=-1)
    parts[2].write_bytes(other[2].read_bytes())
    with pytest.raises(InputError, match=r"m-00003-of-00003.gguf holds tensor .* a second time"):
        open_source(parts[0])


# Architectures


def test_qwen2_keeps_its_rows_and_has_biases(tmp_path):
    raw = families()["qwen2.5"]
    config = ModelConfig.from_hf(raw)
    tensors = hf_tensors(config)
    source = write_gguf(tmp_path / "m.gguf", raw, tensors)
    opened = open_source(source).config  # where numbers are in 32 bits
    assert replace(opened, rms_norm_eps=config.rms_norm_eps) == config
    assert np.float32(opened.rms_norm_eps) == np.float32(config.rms_norm_eps)
    read = read_all(source)
    assert "model.layers.3.self_attn.k_proj.bias" in read
    for name, array in tensors.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qwen2__attention__sliding_window": "4"}, "qwen2.attention.sliding_window = '4' may"),
        ({"qwen2__rope__scaling__type": "yarn"}, "scaled by YaRN, but .* missing"),
    ],
)
def test_qwen2_refused_by_name(tmp_path, settings, message):
    raw = families()["qwen2.5"]
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    with pytest.raises(InputError, match=message):
        open_source(write_gguf(tmp_path / "m.gguf", raw, tensors, **settings))
