"""config.json is read strictly: every field matters, everything else is refused by name."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import DUMP, LLAMA3, MINISTRAL3, SMOLLM3, YARN, image_model
from tiny import hf_tensors, leaves_of, model_of, prompts, raw_config

from jaxdepth import InputError, exit_logits
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.families import FAMILIES
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.rope import query_scale, rope_table
from jaxdepth.model.rope_config import Llama3Scaling, QueryScaling, RopeConfig, YarnScaling

pytestmark = pytest.mark.usefixtures("quick_programs")
BASE = ModelConfig.from_hf(raw_config(rope_scaling=LLAMA3, sliding_window=16))

# A change of every field. Sizes that are read off the weights must be refused when they do not fit;
# everything else must move the logits.
MOVES = {
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rms_norm_eps": 1e-2,
    "rope": None,  # field by field below
    "sliding_window": 17,
    "sliding_layers": (True, False, True, True),
    "tie_word_embeddings": True,
    "qkv_bias": True,
    "qk_norm": True,
    "rope_layers": (True, False, True, True),
    "query_scaling": QueryScaling(0.3, 16),
}
REFUSES = {"vocab_size": 97, "hidden_size": 65, "intermediate_size": 113}
LIMITS = {"max_position_embeddings": 63}
ROPE_MOVES = {"theta": 20000.0, "scaling": None}
SCALING_MOVES = {
    "factor": 4.0,
    "low_freq_factor": 2.0,
    "high_freq_factor": 8.0,
    "original_max_position_embeddings": 64,
}
LONGER = YARN | {"original_max_position_embeddings": 64}
YARN_BASE = ModelConfig.from_hf(raw_config(rope_scaling=LONGER)).rope
YARN_MOVES = {
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 8.0,
    "beta_slow": 0.05,
    "attention_factor": 1.0,
    "truncate": False,
}


MIXED = {
    "model_type": "ministral",
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
}


def logits_of(config: ModelConfig, tensors) -> np.ndarray:
    """Logits of the same source tensors under another config, cut to what that config asks for."""
    expected = hf_tensors(config)  # for the shapes
    cut = {}
    for name, array in expected.items():
        source = tensors.get(name, array)  # biases and norms of heads: BASE has none
        if source.size < array.size:  # other head layout: repeat what is there
            source = np.tile(
                source, [-(-n // m) for n, m in zip(array.shape, source.shape, strict=True)]
            )
        cut[name] = source[tuple(slice(n) for n in array.shape)]
    model = Mistral(config, leaves_of(config, cut))
    return np.asarray(exit_logits(model, *prompts(), config.num_hidden_layers))


def test_every_field_is_in_a_table():
    assert {f.name for f in dataclasses.fields(ModelConfig)} == {*MOVES, *REFUSES, *LIMITS}
    assert {f.name for f in dataclasses.fields(RopeConfig)} == set(ROPE_MOVES)
    assert {f.name for f in dataclasses.fields(Llama3Scaling)} == set(SCALING_MOVES)
    assert {f.name for f in dataclasses.fields(YarnScaling)} == set(YARN_MOVES)


def changed_configs():
    for name, value in MOVES.items():
        if name != "rope":
            yield name, dataclasses.replace(BASE, **{name: value})
    for name, value in ROPE_MOVES.items():
        rope = dataclasses.replace(BASE.rope, **{name: value})
        yield f"rope.{name}", dataclasses.replace(BASE, rope=rope)
    for name, value in SCALING_MOVES.items():
        scaling = dataclasses.replace(BASE.rope.scaling, **{name: value})
        rope = dataclasses.replace(BASE.rope, scaling=scaling)
        yield f"rope.scaling.{name}", dataclasses.replace(BASE, rope=rope)


@pytest.mark.parametrize("name", YARN_MOVES)
def test_every_field_of_yarn_moves_the_rotations(name):
    scaling = dataclasses.replace(YARN_BASE.scaling, **{name: YARN_MOVES[name]})
    right, moved = (
        np.stack(rope_table(rope, 64, jnp.arange(64)))
        for rope in (YARN_BASE, dataclasses.replace(YARN_BASE, scaling=scaling))
    )
    assert np.abs(right - moved).max() > 1e-3


def test_queries_of_short_prompts_are_not_scaled():
    scales = np.asarray(query_scale(QueryScaling(0.1, 16), jnp.arange(48)))
    assert (scales[:16] == 1).all()
    np.testing.assert_allclose(scales[[16, 31, 32]], 1 + 0.1 * np.log([2, 2, 3]), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "config"), list(changed_configs()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_field_that_matters_moves_the_logits(name, config):
    tensors = hf_tensors(BASE)
    assert np.abs(logits_of(config, tensors) - logits_of(BASE, tensors)).max() > 1e-4


@pytest.mark.parametrize("name", REFUSES)
def test_sizes_that_do_not_fit_the_weights_are_refused(name):
    arrays = leaves_of(BASE, hf_tensors(BASE))
    with pytest.raises(InputError, match="expected"):
        Mistral(dataclasses.replace(BASE, **{name: REFUSES[name]}), arrays)


def test_max_position_embeddings_limits_the_input():
    config = dataclasses.replace(BASE, **LIMITS)
    with pytest.raises(InputError, match="at most 63"):
        logits_of(config, hf_tensors(BASE))


def test_old_and_new_rope_forms_are_one():
    old = raw_config(rope_theta=5e5, rope_scaling=LLAMA3)
    new = {k: v for k, v in raw_config().items() if k != "rope_theta"}
    new["rope_parameters"] = {"rope_theta": 5e5, **LLAMA3}
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)
    new["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    assert ModelConfig.from_hf(new) == ModelConfig.from_hf(raw_config(rope_theta=5e5))
    legacy = {**LLAMA3, "type": LLAMA3["rope_type"]}
    del legacy["rope_type"]
    assert ModelConfig.from_hf(raw_config(rope_theta=5e5, rope_scaling=legacy)) == (
        ModelConfig.from_hf(old)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_keys_mean_what_they_mean_to_transformers(family):
    from transformers import AutoConfig

    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    raw = {k: raw_config()[k] for k in (*sizes, "num_attention_heads")}
    raw["num_attention_heads"] = 32
    raw["hidden_size"] = 256
    if family == "ministral":  # its class has no default that its own model could use
        raw["head_dim"] = 8
    hf = AutoConfig.for_model(family, **raw)
    ours = ModelConfig.from_hf({"model_type": family, **raw})
    for name in (*raw, "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(hf, name), name
    assert ours.head_dim == getattr(hf, "head_dim", 8)
    assert ours.max_position_embeddings == hf.max_position_embeddings
    assert ours.rope.theta == hf.rope_parameters["rope_theta"]
    assert (ours.rope.scaling is None) == (hf.rope_parameters["rope_type"] == "default")
    if family == "smollm3":
        assert list(ours.rope_layers) == [bool(rotates) for rotates in hf.no_rope_layers]
    assert ours.sliding_window == getattr(hf, "sliding_window", None)
    # and what transformers itself writes out is read as the same
    assert ModelConfig.from_hf(hf.to_dict()) == ours


@pytest.mark.parametrize(
    "keys",
    [
        {"use_sliding_window": True, "max_window_layers": 2},
        {"use_sliding_window": True, "max_window_layers": 0},
        {"use_sliding_window": True},  # 28: beyond the last layer
        {"use_sliding_window": False, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": None},
        {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ],
    ids=str,
)
def test_which_layers_have_the_window_is_as_in_transformers(keys):
    from transformers import AutoConfig

    raw = raw_config(**{"model_type": "qwen2", "sliding_window": 16} | keys)
    settings = {k: v for k, v in raw.items() if k != "model_type"}
    kinds = AutoConfig.for_model("qwen2", **settings).layer_types
    ours = ModelConfig.from_hf(raw)
    slides = ours.sliding_layers or (ours.sliding_window is not None,) * 4
    assert [k == "sliding_attention" for k in kinds] == list(slides)
    assert ours.sliding_window == (16 if any(slides) else None)


@pytest.mark.parametrize(
    ("family", "window"), [("mistral", None), ("mistral", 16), ("llama", None)]
)
def test_layer_types_that_say_what_the_window_says(family, window):
    raw = raw_config(model_type=family, sliding_window=window)
    kind = "sliding_attention" if window else "full_attention"
    assert ModelConfig.from_hf(raw | {"layer_types": [kind] * 4}) == ModelConfig.from_hf(raw)


def test_what_changes_nothing_is_read_as_absent():
    unknown = {"attn_logit_softcapping": None, "quantization_config": None, "layer_types": None}
    for family in ("mistral", "llama"):
        raw = raw_config(model_type=family)
        assert ModelConfig.from_hf(raw | DUMP | unknown) == ModelConfig.from_hf(raw)


def test_rope_in_both_forms_at_once():
    old = raw_config(rope_theta=5e5, rope_scaling=LLAMA3)
    both = old | {"rope_parameters": {**LLAMA3, "rope_theta": 5e5, "type": None}}
    length = LLAMA3["original_max_position_embeddings"]
    beside = {"original_max_position_embeddings": length}
    assert ModelConfig.from_hf(both | beside) == ModelConfig.from_hf(old)
    default = {"rope_type": "default", "rope_theta": 1e4, "original_max_position_embeddings": 8192}
    assert ModelConfig.from_hf(raw_config(rope_parameters=default)) == ModelConfig.from_hf(
        raw_config()
    )


def test_the_text_model_of_an_image_model():
    text = ModelConfig.from_hf(raw_config(**MINISTRAL3))
    assert text.query_scaling == QueryScaling(0.3, 16)
    assert ModelConfig.from_hf(image_model(False, **MINISTRAL3)) == text
    tied = ModelConfig.from_hf(image_model(None, **MINISTRAL3))  # transformers 5's default
    assert tied == dataclasses.replace(text, tie_word_embeddings=True)
    with pytest.raises(InputError, match=r"mistral4.*experts"):
        ModelConfig.from_hf(image_model(False, model_type="mistral4"))
    raw = image_model(False)
    del raw["text_config"]["model_type"]
    assert ModelConfig.from_hf(raw) == ModelConfig.from_hf(raw_config())


def test_phi_3_is_mistrals_block_with_other_defaults():
    sizes = {k: raw_config()[k] for k in ("vocab_size", "hidden_size", "intermediate_size")}
    sizes |= {"num_hidden_layers": 4, "num_attention_heads": 4}
    config = ModelConfig.from_hf(sizes | {"model_type": "phi3", "embd_pdrop": 0.0})
    assert (config.num_key_value_heads, config.sliding_window) == (4, None)
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-5, 4096)
    scaled = {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}
    with pytest.raises(InputError, match="longrope"):
        ModelConfig.from_hf(sizes | {"model_type": "phi3", "rope_scaling": scaled})


def test_nulls():
    raw = raw_config(
        sliding_window=None, head_dim=None, num_key_value_heads=None, rope_scaling=None
    )
    config = ModelConfig.from_hf(raw)
    assert (config.sliding_window, config.head_dim, config.num_key_value_heads) == (None, 16, 4)
    assert np.isfinite(exit_logits(model_of(raw), *prompts(), 4)).all()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": None}, "None"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"model_type": ["llama"]}, "llama"),
        ({"model_type": "gemma2"}, "gemma2.*caps its logits.*mistral, ministral, .*llama, qwen2"),
        ({"model_type": "mistral3", "text_config": 1}, "text_config of mistral3 is 1"),
        (image_model(None), "keys 'head_dim' = 16, 'hidden_size'"),
        ({"model_type": "mistral4"}, "mistral4.*experts.*MLA"),
        ({"model_type": "mixtral"}, "mixtral.*experts"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types differ.*mistral config"),
        ({**MIXED, "model_type": "llama", "sliding_window": None}, "layer_types differ.*llama"),
        ({**MIXED, "model_type": "mistral"}, "layer_types differ.*set model_type to ministral"),
        ({**MIXED, "layer_types": ["full_attention"] * 3}, "expected a list of 4"),
        ({**MIXED, "layer_types": ["chunked_attention"] * 4}, "layer_types.*chunked"),
        ({**MIXED, "layer_types": [None] * 4}, "layer_types is"),
        ({**MIXED, "layer_types": [["full_attention"]] * 4}, "layer_types is"),
        ({**MIXED, "layer_types": "full_attention"}, "layer_types is"),
        ({**MIXED, "sliding_window": None}, "there is no sliding_window"),
        ({"use_sliding_window": True}, "use_sliding_window = True .only False"),
        (
            {"logit_scale": 2, "mlp_bias": True, "x": 1},
            "keys 'logit_scale' = 2, mlp_bias = .*'x' = 1",
        ),
        ({"model_type": "qwen2", "use_sliding_window": 1}, "use_sliding_window is 1"),
        ({"model_type": "qwen2", "max_window_layers": -1}, "max_window_layers is -1"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4}
            | {"max_window_layers": 1, "num_hidden_layers": 10**12},
            "num_hidden_layers is 1000000000000, expected at most",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_scaling": {"type": "linear"}}, "linear.*lacks factor"),
        ({"rope_scaling": YARN | {"mix": 1}}, "yarn' with mix"),
        ({"rope_scaling": YARN | {"llama_4_scaling_beta": 0.1}}, "with llama_4_scaling_beta"),
        ({"rope_scaling": YARN | {"truncate": 1}}, "truncate is 1"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 0.5}}, "embeddings is 0.5"),
        ({"rope_scaling": YARN, "rope_theta": 1}, "rope_theta is 1, expected more"),
        ({"rope_scaling": YARN, "rope_parameters": YARN | {"factor": 8.0}}, "disagree"),
        ({"rope_scaling": YARN, "original_max_position_embeddings": 9}, "two values of original"),
        ({**SMOLLM3, "no_rope_layers": [1, 0]}, "no_rope_layers is .1, 0."),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "two values"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"head_dim": 15}, "odd"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": "96"}, "vocab_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"sliding_window": -1}, "sliding_window"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"model_type": "llama", "sliding_window": 16}, "sliding_window"),
    ],
    ids=str,
)
def test_refused_by_name(changes, says):
    with pytest.raises(InputError, match=says):
        ModelConfig.from_hf(raw_config(**changes))


def test_norm_and_softmax_stay_in_float32():
    """A bfloat16 stream with entries whose squares do not fit bfloat16's precision."""
    from jaxdepth.model.mistral import rms_norm

    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 512)), jnp.bfloat16)
    actual = rms_norm(x, jnp.ones(512, jnp.bfloat16), 1e-5)
    x64 = np.asarray(x, np.float64)
    expected = x64 / np.sqrt((x64**2).mean(-1, keepdims=True) + 1e-5)
    assert actual.dtype == jnp.bfloat16
    # float32 inside: only the last rounding is bfloat16's
    assert (np.asarray(actual) == expected.astype(np.float32).astype(jnp.bfloat16)).mean() > 0.99
