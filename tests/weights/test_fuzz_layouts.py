"""Damaged folders of other layouts: refused in one clear line, or read exactly as the files say."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
import tiny_tokenizers
from folders.mistral import in_image_model, params_of, write_mistral_folder
from mutants.folder import mutate_folder
from mutants.harness import fuzz, refusal, refused_conversion
from mutants.layouts import IMAGE_KINDS, MISTRAL_KINDS, YARN_KINDS
from mutants.safetensors import shards
from mutants.settings import damage
from parity_grid import MINISTRAL3, QWEN2, YARN, image_model
from safetensors.numpy import load_file, save_file
from tiny import hf_tensors, leaves_of, raw_config, write_folder

import jaxdepth
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.rope import inverse_frequencies
from jaxdepth.weights.convert import convert
from jaxdepth.weights.tensor_map import HF_NAMES, MISTRAL_NAMES, tensor_map

# What is refused is a message of ours, not of the types that tests check.
pytestmark = pytest.mark.usefixtures("unchecked_shapes")
SIZES = {
    "vocab_size": 1000, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
}  # fmt: skip
RAW = raw_config(**MINISTRAL3 | SIZES)
TENSORS = hf_tensors(ModelConfig.from_hf(RAW))
QWEN_RAW = raw_config(**QWEN2 | SIZES, rope_scaling=YARN)
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FEW = {"mistral": 20, "image, 4": 10, "image, 5": 10, "yarn": 10}
MANY = {"mistral": 1400, "image, 4": 700, "image, 5": 700, "yarn": 500}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Mistral's own folder of two files, image models in both layouts, and two configs of YaRN."""
    place = tmp_path_factory.mktemp("whole")
    own = write_mistral_folder(place / "mistral", RAW, params_of(RAW), TENSORS)
    (whole,) = shards(own)
    tensors = load_file(whole)
    whole.unlink()
    for i in range(2):
        file = own / f"consolidated-{i + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in sorted(tensors)[i::2]}, file)
    for version in "45":
        raw = image_model(False, **MINISTRAL3 | SIZES)
        layout = in_image_model(TENSORS, f"transformers {version}")
        write_folder(place / f"image, {version}", raw, layout, shards=2)
    write_folder(place / "yarn, new", RAW, TENSORS)
    write_folder(place / "yarn, old", QWEN_RAW, hf_tensors(ModelConfig.from_hf(QWEN_RAW)))
    tokenizer = tiny_tokenizers.build("chatml")
    for folder in place.iterdir():
        if "yarn" not in folder.name:
            tokenizer.save_pretrained(folder)
    for folder in sorted(place.iterdir()):
        convert(folder, tmp_path_factory.mktemp("converted") / "model")
    return place


def loaded_is(target, tensors):
    """Whether a checkpoint holds these tensors, by Hugging Face's names."""
    model, _ = jaxdepth.load(target)
    for name, expected in leaves_of(read_config(target / "config.json")[0], tensors).items():
        module = model.layers if "." in name else model
        actual = np.asarray(getattr(module, name.removeprefix("layers."))[...])
        assert np.array_equal(actual, expected), name


def tensors_of(folder):
    return {name: array for file in shards(folder) for name, array in load_file(file).items()}


def mistral_mutant(whole, place, rng, done):
    """Refused with nothing left behind; or converted to what the files say, by plain code."""
    source, target = place / "source", place / "target"
    shutil.copytree(whole / "mistral", source)
    done.append(mutate_folder(source, rng, MISTRAL_KINDS))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    params = json.loads((source / "params.json").read_text())
    config, raw = read_config(target / "config.json")
    names = {
        "dim": "hidden_size", "n_layers": "num_hidden_layers", "head_dim": "head_dim",
        "hidden_dim": "intermediate_size", "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps", "vocab_size": "vocab_size",
    }  # fmt: skip
    assert {hf: raw[hf] for hf in names.values()} == {hf: params[k] for k, hf in names.items()}
    assert rope_of(config) == rope_of_params(params)
    files, tensors = tensors_of(source), {}
    pairs = zip(tensor_map(config, HF_NAMES), tensor_map(config, MISTRAL_NAMES), strict=True)
    for hf, mistral in pairs:
        array = files[mistral.source]
        if hf.heads:  # neighbours rotate together: first all even rows of a head, then all odd ones
            heads = np.split(array, hf.heads)
            array = np.concatenate([part for head in heads for part in (head[::2], head[1::2])])
        tensors[hf.source] = array
    loaded_is(target, tensors)
    return None


def rope_of(config):
    """What positions mean to a config: base, scaling by its fields, scale of queries, window."""
    scaling = config.rope.scaling
    yarn = None if scaling is None else {
        "factor": scaling.factor, "original": scaling.original_max_position_embeddings,
        "beta": scaling.beta_fast, "alpha": scaling.beta_slow,
    }  # fmt: skip
    queries = config.query_scaling
    scale = None if queries is None else queries.beta
    return config.rope.theta, yarn, scale, config.sliding_window, config.tie_word_embeddings


def rope_of_params(params):
    """The same from a `params.json` that is understood."""
    yarn, window = params.get("yarn") or None, params.get("sliding_window") or None
    if yarn:
        yarn = {name: float(yarn[name]) for name in ("factor", "beta", "alpha")} | {
            "original": int(yarn["original_max_position_embeddings"])
        }
    scale = (params.get("llama_4_scaling") or {}).get("beta")
    window = next(iter({*window} - {None}), None) if isinstance(window, list) else window
    window = int(window) if isinstance(window, str) else window
    tied = params.get("tied_embeddings") or False
    return float(params.get("rope_theta") or 10000.0), yarn, scale, window, tied


def image_mutant(whole, name, place, rng, done):
    """Refused with nothing left behind; or the text model alone, as the files say."""
    source, target = place / "source", place / "target"
    shutil.copytree(whole / name, source)
    done.append(mutate_folder(source, rng, IMAGE_KINDS))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    given = json.loads((source / "config.json").read_text())
    config, raw = read_config(target / "config.json")
    text = {k: v for k, v in given.get("text_config", given).items() if v is not None}
    text.pop("tie_word_embeddings", None)
    assert {key: raw[key] for key in text} == text
    tensors = {}
    for key, array in tensors_of(source).items():
        key = key.replace("model.language_model.", "model.").replace("language_model.", "")
        if not key.removeprefix("model.").startswith(("vision_tower.", "multi_modal")):
            tensors[key] = array
    is_tied = given.get("tie_word_embeddings") in (True, None)
    is_tied &= np.array_equal(tensors.get(HEAD, tensors[EMBED]), tensors[EMBED])
    assert config.tie_word_embeddings == is_tied
    loaded_is(target, tensors)
    return None


def yarn_mutant(whole, place, rng, done):
    """Refused with nothing left behind; or converted with the config as it was."""
    name, key = rng.choice([("yarn, new", "rope_parameters"), ("yarn, old", "rope_scaling")])
    source, target = place / "source", place / "target"
    shutil.copytree(whole / name, source)
    kinds = YARN_KINDS[key]
    done.append((name, mutate_folder(source, rng, kinds)))
    message = refused_conversion(source, target)
    if message is not None:
        return message
    config, raw = read_config(target / "config.json")
    assert json.dumps(raw) == (source / "config.json").read_text()
    assert inverse_frequencies(config.rope, config.head_dim).shape == (config.head_dim // 2,)
    loaded_is(target, tensors_of(source))
    return None


@pytest.mark.parametrize(
    "counts", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("kind", FEW)
def test_damage_is_refused_or_harmless(whole, tmp_path, kind, counts):
    one = {
        "mistral": lambda *a: mistral_mutant(whole, *a),
        "image, 4": lambda *a: image_mutant(whole, kind, *a),
        "image, 5": lambda *a: image_mutant(whole, kind, *a),
        "yarn": lambda *a: yarn_mutant(whole, *a),
    }[kind]
    refused = fuzz(kind, counts[kind], tmp_path, one)
    assert 0.3 * counts[kind] < refused < counts[kind]


PLACES = {
    "params.json": "mistral", "consolidated-00001-of-00002.safetensors": "mistral",
    "model.safetensors": "yarn, new", "model-00001-of-00002.safetensors": "image, 5",
    "part-00001-of-00002.gguf": None,
}  # fmt: skip


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_is_not_waited_for(whole, tmp_path, name, what):
    """A folder, a pipe, or a link to nothing, in the place of a file of weights or settings."""
    source = tmp_path / "source"
    if PLACES[name] is None:
        source.mkdir()
        (source / name.replace("00001", "00002", 1)).write_bytes(b"GGUF")
    else:
        shutil.copytree(whole / PLACES[name], source)
        (source / name).unlink()
        (source / "model.safetensors.index.json").unlink(missing_ok=True)
    if what == "folder":
        (source / name).mkdir()
    elif what == "pipe":
        os.mkfifo(source / name)
    else:
        (source / name).symlink_to("nowhere")
    opened = source / name.replace("00001", "00002", 1) if name.endswith(".gguf") else source
    message = refused_conversion(opened, tmp_path / "target")
    assert ("config.json is missing" if name == "params.json" else name) in message


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_damaged_yarn_means_what_it_means_to_transformers(torch, key):
    """Of what both read: frequencies, and what logits are scaled by."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    compared = 0
    for number in range(300):
        raw = copy.deepcopy(RAW if key == "rope_parameters" else QWEN_RAW)
        damage(raw[key], np.random.default_rng(number))
        config = []
        if refusal(lambda raw=raw, into=config: into.append(ModelConfig.from_hf(raw))):
            continue
        settings = copy.deepcopy({k: v for k, v in raw.items() if k != "model_type"})
        try:
            theirs = AutoConfig.for_model(raw["model_type"], **settings)
            compute = ROPE_INIT_FUNCTIONS[theirs.rope_parameters["rope_type"]]
            frequencies, factor = compute(theirs, "cpu")
        except Exception:  # some nulls and numbers that transformers cannot compute with
            continue
        (config,) = config
        ours = inverse_frequencies(config.rope, config.head_dim)
        np.testing.assert_allclose(ours, frequencies.numpy(), rtol=1e-5, err_msg=str(raw[key]))
        assert config.rope.scaling.attention_factor == pytest.approx(factor), raw[key]
        compared += 1
    assert compared > 100
