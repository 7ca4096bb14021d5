"""GGUF metadata: RoPE scaling in Hugging Face's words, and keys that change nothing."""

from dataclasses import replace

import numpy as np
import pytest
from gguf_files import llama3_divisors, write_gguf
from parity_grid import families
from tiny import hf_tensors, raw_config

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.rope import inverse_frequencies
from jaxdepth.weights.gguf.config import gguf_config
from jaxdepth.weights.gguf.parts import check_parts
from jaxdepth.weights.gguf.rope import divisors_scaling, rope_scaling
from jaxdepth.weights.sources import open_source

RAW = raw_config(model_type="llama", num_hidden_layers=2)
TENSORS = hf_tensors(ModelConfig.from_hf(RAW))


def converters_divisors(head_dim, theta, factor=8.0, low=1.0, high=4.0, original=8192):
    return llama3_divisors(head_dim, theta, factor, low, high, original)


def opened_config(tmp_path, raw, tensors, **metadata) -> ModelConfig:
    """The config of a file, with the epsilon of `raw`, which the file has in 32 bits."""
    config = open_source(write_gguf(tmp_path / "m.gguf", raw, tensors, **metadata)).config
    return replace(config, rms_norm_eps=raw["rms_norm_eps"])


# RoPE


@pytest.mark.parametrize(
    ("head_dim", "theta", "values"),
    [
        (128, 5e5, {}),  # Llama 3.1 8B
        (64, 5e5, {"factor": 32.0}),  # Llama 3.2 1B
        (128, 5e5, {"factor": 32.0}),
        (64, 1e4, {"factor": 2.5, "original": 4096}),
        (128, 1e6, {"factor": 16.0, "high": 8.0, "original": 1000}),
        (16, 5e5, {"original": 32}),  # one pair between, or none
        (16, 1e4, {"original": 64}),
    ],
)
def test_divisors_are_llama3s_scaling(head_dim, theta, values):
    divisors = converters_divisors(head_dim, theta, **values)
    assert len(set(divisors)) > 1
    scaling = divisors_scaling(divisors, theta)
    assert scaling["factor"] == values.get("factor", 8.0)
    if head_dim > 16:
        assert scaling == {
            "rope_type": "llama3",
            "factor": values.get("factor", 8.0),
            "low_freq_factor": 1.0,
            "high_freq_factor": values.get("high", 4.0),
            "original_max_position_embeddings": values.get("original", 8192),
        }
    raw = RAW | {"head_dim": head_dim, "rope_theta": theta}
    plain = inverse_frequencies(ModelConfig.from_hf(raw).rope, head_dim)
    scaled = inverse_frequencies(
        ModelConfig.from_hf(raw | {"rope_scaling": scaling}).rope, head_dim
    )
    np.testing.assert_allclose(scaled, plain / divisors, rtol=2e-5)


def test_divisors_of_one_change_nothing(tmp_path):
    tensors = TENSORS | {"rope_freqs.weight": np.ones(8, np.float32)}
    assert opened_config(tmp_path, RAW, tensors) == ModelConfig.from_hf(RAW)


@pytest.mark.parametrize(
    ("divisors", "message"),
    [
        (
            np.arange(1, 9),
            r"RoPE's frequencies \(rope_freqs.weight, from 1 to 8\) are not those of",
        ),
        (10000.0 ** -(np.arange(8) / 8), "not those of Llama 3's"),  # Meta's own, frequencies
        (np.zeros(8), "not those of Llama 3's"),
        (np.ones(4), r"has the shape \(4,\), expected \(8,\)"),
        (np.full(8, np.nan), "rope_freqs.weight.*NaN"),
    ],
    ids=["counting", "frequencies", "zeros", "shape", "nan"],
)
def test_other_divisors_are_refused(tmp_path, divisors, message):
    tensors = TENSORS | {"rope_freqs.weight": np.float32(divisors)}
    with pytest.raises(InputError, match=message):
        open_source(write_gguf(tmp_path / "m.gguf", RAW, tensors))


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "context_length": 1024}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, None),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 0.0}, None),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 1.0}, None),
        ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (YARN, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}),
        (
            YARN
            | {
                "rope.scaling.original_context_length": 256,
                "rope.scaling.yarn_beta_fast": 24.0,
                "rope.scaling.yarn_beta_slow": float(np.float32(1.1)),
                "rope.scaling.yarn_attn_factor": 1.25,
                "rope.scaling.yarn_ext_factor": 1.0,
                "rope.scaling.attn_factor": 1.0,
                "rope.scaling.finetuned": True,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 256,
                "beta_fast": 24.0,
                "beta_slow": 1.1,
                "attention_factor": 1.25,
            },
        ),
        (
            YARN | {"rope.scaling.yarn_log_multiplier": 1.0},
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        ),
    ],
)
def test_scaling_in_hugging_faces_words(metadata, expected):
    assert rope_scaling(metadata) == expected


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type = 'longrope' is not implemented"),
        ({"rope.scaling.type": "yarn"}, "YaRN, but rope.scaling.factor is missing"),
        ({"rope.scaling.factor": "4"}, "rope.scaling.factor is '4', expected a number"),
        ({"rope.scaling.factor": float("nan")}, "rope.scaling.factor is nan"),
        (YARN | {"rope.scaling.yarn_ext_factor": 0.5}, "YaRN with rope.scaling.yarn_ext_factor"),
        (YARN | {"rope.scaling.attn_factor": 1.2}, "YaRN with rope.scaling.attn_factor = 1.2"),
    ],
)
def test_other_scaling_is_refused_by_name(metadata, message):
    with pytest.raises(InputError, match=message):
        rope_scaling(metadata)


def test_two_scalings_at_once_are_refused(tmp_path):
    tensors = TENSORS | {"rope_freqs.weight": converters_divisors(16, 1e4, original=64)}
    with pytest.raises(
        InputError, match=r"both rope_freqs.weight and rope.scaling.type = 'linear'"
    ):
        open_source(write_gguf(tmp_path / "m.gguf", RAW, tensors, llama__rope__scaling__factor=4.0))


# Keys at values that change nothing: what llama.cpp's own writer adds to every file

NEUTRAL = {
    **dict.fromkeys(
        """
        leading_dense_block_count expert_feed_forward_length expert_shared_feed_forward_length
        expert_count expert_used_count expert_shared_count rescale_every_n_layers
        time_mix_extra_dim time_decay_extra_dim attention.q_lora_rank attention.kv_lora_rank
        attention.relative_buckets_count attention.sliding_window ssm.inner_size ssm.conv_kernel
        ssm.state_size ssm.time_step_rank wkv.head_size
        """.split(),
        0,
    ),
    **dict.fromkeys(
        """
        expert_weights_scale logit_scale residual_scale embedding_scale attention.max_alibi_bias
        attention.clamp_kqv attention.scale rope.scaling.factor
        rope.scaling.yarn_log_multiplier
        """.split(),
        0.0,
    ),
    **dict.fromkeys("use_parallel_residual swin_norm ssm.dt_b_c_rms".split(), False),
    "attention.layer_norm_epsilon": 0.0,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "attention.causal": True,
    "pooling_type": 2**32 - 1,
    "decoder_start_token_id": 2**32 - 1,
    "attention.value_length": 16,
    "rope.dimension_count": 16,
    "rope.scaling.type": "linear",
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.original_context_length": 256,
    "rope.scaling.finetuned": False,
}


def written(family: str, metadata: dict) -> dict:
    return {f"{family}.{key}".replace(".", "__"): value for key, value in metadata.items()}


@pytest.mark.parametrize("row", ["llama-2", "qwen2.5"])
def test_neutral_keys_change_nothing(tmp_path, row):
    raw = families()[row]
    config = ModelConfig.from_hf(raw)
    metadata = written(raw["model_type"], NEUTRAL)
    assert opened_config(tmp_path, raw, hf_tensors(config), **metadata) == config


SHAPES = {"token_embd.weight": (96, 64)}
OTHER = {"attention.causal": False, "tensor_data_layout": "reference", "logit_scale": 0.5}
OTHER |= {key: True if value is False else 3 for key, value in NEUTRAL.items() if value in (0, 50)}
READ = ("attention.sliding_window", "rope.scaling", "attention.layer_norm_epsilon")


@pytest.mark.parametrize("key", [key for key in OTHER if not key.startswith(READ)])
def test_another_value_of_a_neutral_key_is_refused_by_name(key):
    fields = {"general.architecture": "llama", f"llama.{key}": OTHER[key]}
    with pytest.raises(InputError, match=rf"metadata llama.{key} = .* may change the numbers"):
        gguf_config(fields, SHAPES)


REQUIRED = {"context_length": 256, "attention.layer_norm_rms_epsilon": 1e-5}


@pytest.mark.parametrize("key", REQUIRED)
def test_what_llama_cpp_requires_is_not_guessed(key):
    fields = {f"llama.{k}": value for k, value in REQUIRED.items() if k != key}
    with pytest.raises(InputError, match=f"metadata llama.{key} is missing: fetch the file again"):
        gguf_config(fields | {"general.architecture": "llama"}, SHAPES)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("window", [0, 16])
def test_absent_keys_mean_what_they_mean_to_llama_cpp(architecture, window):
    """Not what they mean to transformers: 8 or 32 heads of keys and values."""
    sizes = {"block_count": 2, "embedding_length": 64, "feed_forward_length": 112}
    sizes |= {"attention.head_count": 4} | REQUIRED
    if architecture == "llama":
        sizes |= {"attention.sliding_window": window}
    fields = {f"{architecture}.{key}": value for key, value in sizes.items()}
    raw = gguf_config(fields | {"general.architecture": architecture}, SHAPES)
    config = ModelConfig.from_hf(raw)
    assert (config.num_key_value_heads, config.head_dim, config.rope.theta) == (4, 16, 10000.0)


def test_all_unknown_keys_are_named_at_once():
    fields = {"general.architecture": "llama", "llama.new_a": 1, "llama.new_b": "x" * 1000}
    with pytest.raises(InputError, match=r"llama.new_a = 1, llama.new_b = 'x"):
        gguf_config(fields, SHAPES)


# Damaged values


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.block_count": "2"}, "metadata llama.block_count is '2', expected a number"),
        ({"llama.embedding_length": [64, 64]}, r"llama.embedding_length is \[64, 64\]"),
        ({"llama.attention.head_count": True}, "llama.attention.head_count is True"),
        ({"tokenizer.ggml.bos_token_id": "1"}, "bos_token_id is '1', expected a token id"),
        ({"tokenizer.ggml.eos_token_id": -7}, "eos_token_id is -7"),
        ({"general.architecture": ["llama"]}, r"architecture \['llama'\]"),
    ],
)
def test_values_of_another_type_are_one_line(metadata, message):
    with pytest.raises(InputError, match=message) as caught:
        gguf_config({"general.architecture": "llama"} | metadata, SHAPES)
    assert "\n" not in str(caught.value)


def test_a_token_id_of_minus_one_is_none():
    fields = {f"llama.{key}": value for key, value in REQUIRED.items()}
    fields |= {"general.architecture": "llama", "tokenizer.ggml.padding_token_id": 2**32 - 1}
    fields["tokenizer.ggml.bos_token_id"] = 1
    raw = gguf_config(fields, SHAPES)
    assert raw["bos_token_id"] == 1
    assert "pad_token_id" not in raw


@pytest.mark.parametrize("key", ["split.no", "split.count", "split.tensors.count"])
@pytest.mark.parametrize("value", ["1", [1], 1.5, True], ids=str)
def test_counts_of_parts_that_are_no_numbers(tmp_path, key, value):
    with pytest.raises(InputError, match=f"m.gguf: {key} is .*, expected a number") as caught:
        check_parts([tmp_path / "m.gguf"], [{key: value}], [12])
    assert "\n" not in str(caught.value)
