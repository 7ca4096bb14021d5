"""Image models, Mistral's own format, fused matrices, and heads tied under either name."""

import json

import numpy as np
import pytest
from folders.mistral import (
    in_image_model,
    params_sizes,
    vision_encoder,
    write_mistral_folder,
)
from parity_grid import MINISTRAL3, families, image_model
from reference import fused, hf_model
from tiny import hf_tensors, leaves_of, raw_config, write_folder
from tiny_source import assert_holds

from jaxdepth import InputError
from jaxdepth.files import read_json
from jaxdepth.model.config import ModelConfig
from jaxdepth.study.inspection.inspect import inspect
from jaxdepth.weights.convert import convert
from jaxdepth.weights.huggingface.mistral_params import params_config
from jaxdepth.weights.sources import open_source
from jaxdepth.weights.verify import verify

RAW = raw_config(**MINISTRAL3, num_hidden_layers=2)
CONFIG = ModelConfig.from_hf(RAW)
TENSORS = hf_tensors(CONFIG)
SIZES = params_sizes(ModelConfig.from_hf(raw_config()))
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
YARN = {"factor": 4.0, "original_max_position_embeddings": 16, "beta": 4.0, "alpha": 0.25}
PARAMS = {
    "rope_theta": 1e6,
    "max_position_embeddings": 256,
    "yarn": YARN | {"apply_scale": False},
    "llama_4_scaling": {"original_max_position_embeddings": 16, "beta": 0.3},
    "vision_encoder": vision_encoder(),
    "tied_embeddings": False,
    "model_type": "transformer",
}


@pytest.mark.parametrize("layout", ["transformers 4", "transformers 5"])
def test_the_text_model_of_an_image_model_is_converted(tmp_path, layout):
    raw = image_model(None, **MINISTRAL3, num_hidden_layers=2)
    source = write_folder(tmp_path / "hf", raw, in_image_model(TENSORS, layout), shards=2)
    convert(source, tmp_path / "model")
    assert_holds(tmp_path / "model", TENSORS, RAW)  # the head differs: it is not tied
    written = read_json(tmp_path / "model" / "config.json")
    assert written["model_type"] == "ministral3"
    assert not written["tie_word_embeddings"]
    assert not convert(source, tmp_path / "model")
    text = dict(inspect(source).rows)
    assert text["family"] == "ministral3, read from mistral3"
    assert "queries scaled every 16 positions" in text["RoPE"]


@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_heads_are_tied_under_either_name(tmp_path, name):
    raw = RAW | {"tie_word_embeddings": True}
    tensors = {name: TENSORS[EMBED], **TENSORS}
    del tensors[HEAD if name == EMBED else EMBED]
    tensors[name] = TENSORS[EMBED]
    convert(write_folder(tmp_path / "hf", raw, tensors), tmp_path / "model")
    assert_holds(tmp_path / "model", TENSORS, raw)
    wrapped = image_model(True, **MINISTRAL3, num_hidden_layers=2)
    folder = write_folder(tmp_path / "image", wrapped, in_image_model(tensors, "transformers 5"))
    assert open_source(folder).config.tie_word_embeddings


def test_another_head_in_a_tied_model_is_refused(tmp_path):
    folder = write_folder(tmp_path / "hf", RAW | {"tie_word_embeddings": True}, TENSORS)
    with pytest.raises(InputError, match=r"lm_head.weight differs from .*embed.* a copy"):
        open_source(folder)


def test_fused_matrices_are_taken_apart(tmp_path):
    raw = families()["phi-3"]
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    source = write_folder(tmp_path / "hf", raw, fused(tensors), shards=2)
    convert(source, tmp_path / "model")
    assert_holds(tmp_path / "model", tensors, raw)
    written = read_json(tmp_path / "model" / "config.json")
    assert (written["model_type"], written["rms_norm_eps"]) == ("mistral", 1e-5)
    assert "auto_map" not in written
    assert dict(inspect(source).rows)["family"] == "mistral, read from phi3"
    wrong = write_folder(tmp_path / "wrong", raw | {"intermediate_size": 100}, fused(tensors))
    with pytest.raises(InputError, match=r"lacks tensors .*gate_proj"):
        convert(wrong, tmp_path / "nothing")


def test_mistrals_own_format(tmp_path):
    source = write_mistral_folder(tmp_path / "m", RAW, PARAMS, TENSORS)
    convert(source, tmp_path / "model")
    assert_holds(tmp_path / "model", TENSORS, RAW)
    assert open_source(source).config == CONFIG
    assert verify(source, tmp_path / "model").logits < 1e-5
    description = inspect(source)
    assert description.kind.startswith("a folder in Mistral's own format")
    # Hugging Face's files are preferred where both are there.
    write_folder(source, RAW, TENSORS)
    assert open_source(source).raw_config == RAW


def test_a_folder_of_both_formats_with_hf_weights_alone(tmp_path):
    folder = write_mistral_folder(tmp_path / "m", RAW, PARAMS, TENSORS)
    (folder / "config.json").write_text(json.dumps(RAW))
    assert open_source(folder).config == CONFIG  # by params.json
    (folder / "params.json").unlink()
    with pytest.raises(InputError, match=r"has no \*.safetensors"):
        open_source(folder)


@pytest.mark.parametrize("code", [{"AutoModelForCausalLM": "its_own.\x1b[2JModel"}, [1]])
def test_code_beside_the_weights_is_never_run_and_named(tmp_path, capsys, code):
    source = write_folder(tmp_path / "hf", RAW | {"auto_map": code}, TENSORS)
    (source / "its_own.py").write_text("raise SystemExit")
    convert(source, tmp_path / "model")
    assert_holds(tmp_path / "model", TENSORS, RAW | {"auto_map": code})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "config.json names code of its own (auto_map: " in line


def test_patterns_of_windows():
    params = {**PARAMS, "sliding_window": [None, 16], "llama_4_scaling": None, "yarn": None}
    config = ModelConfig.from_hf(params_config(SIZES | params))
    assert config.sliding_layers == (False, True) * 2
    one = ModelConfig.from_hf(params_config(SIZES | params | {"sliding_window": "16"}))
    assert (one.sliding_window, one.sliding_layers) == (16, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"moe": {"num_experts": 8}}, "routes tokens to experts"),
        ({"kv_lora_rank": 256}, "compressed .MLA."),
        ({"quantization": {"qformat_weight": "fp8_e4m3"}}, "quantised: convert the Hugging Face"),
        ({"lora": {"rank": 8}}, "low-rank"),
        ({"use_biases": True, "clip": 1}, "'use_biases' = True, 'clip' = 1 may change"),
        ({"norm_eps": None}, "lacks norm_eps"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"yarn": YARN}, "yarn lacks apply_scale"),
        ({"yarn": YARN | {"apply_scale": "false"}}, "yarn.apply_scale is 'false'"),
        ({"yarn": YARN | {"apply_scale": False, "alpha": None}}, "yarn.alpha is None"),
        ({"yarn": YARN | {"apply_scale": False, "beta": False}}, "yarn.beta is False"),
        ({"yarn": 3}, "yarn is 3"),
        ({"yarn": {"factor": 3}}, "yarn has the keys"),
        ({"llama_4_scaling": {"original_max_position_embeddings": 8, "beta": 1}}, "two values"),
        ({"sliding_window": [None, 16, 16]}, "sliding_window is"),
        ({"sliding_window": [8, 16]}, "sliding_window is"),
        ({"sliding_window": [[8], [8]]}, "sliding_window is"),
    ],
    ids=str,
)
def test_params_that_are_not_understood_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        params_config(SIZES | PARAMS | changes)


@pytest.mark.live
@pytest.mark.parametrize("layout", ["transformers 4", "transformers 5"])
def test_transformers_reads_the_same_folder(tmp_path, torch, layout):
    """Both read the files of a whole image model, and agree at every exit."""
    from safetensors.torch import save_file

    raw = image_model(False, **MINISTRAL3, num_hidden_layers=2)
    folder = write_folder(tmp_path / "hf", raw, {})
    state = hf_model(raw, TENSORS).state_dict()
    if layout == "transformers 4":
        moved = {
            n.replace("model.language_model.", "language_model.model."): t for n, t in state.items()
        }
        moved = {n.replace("lm_head.", "language_model.lm_head."): t for n, t in moved.items()}
        state = {n.removeprefix("model."): t for n, t in moved.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    convert(folder, tmp_path / "model")
    result = verify(folder, tmp_path / "model")
    assert result.reference == "transformers"
    assert result.logits < 1e-5
    np.testing.assert_array_equal(leaves_of(CONFIG, TENSORS)["embed"], TENSORS[EMBED])
