"""Exports: what other tools read, truncated models, and what an interrupted export leaves."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from parity_grid import families
from tiny import hf_tensors, model_of, prompts, raw_config, shaken, write_folder
from tiny_tokenizers import build

import jaxdepth
from jaxdepth import InputError, exit_logits
from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig, block_config
from jaxdepth.model.families import FAMILIES
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.weights.adapter import Adapter, save_adapter
from jaxdepth.weights.checkpoint import load_tokenizer, read_manifest
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import export, export_checkpoint
from jaxdepth.weights.exported.config import ARCHITECTURES, exported_config
from jaxdepth.weights.exported.tokenizer import readable_by_4

pytestmark = pytest.mark.usefixtures("quick_programs")
EXIT = 2
CASES = ("qwen2.5-window", "ministral", "llama-3.2", "mistral-7b-v0.1")


def newer_form(raw: dict) -> dict:
    """A config as transformers 5 writes it."""
    raw = {"dtype": "bfloat16", **raw}
    if "rope_parameters" in raw:
        return raw
    scaling = raw.pop("rope_scaling", None) or {"rope_type": "default"}
    return raw | {"rope_parameters": {**scaling, "rope_theta": raw.pop("rope_theta")}}


@pytest.fixture(scope="module")
def of_families(tmp_path_factory):
    """Checkpoints of a few families, half of them from configs of transformers 5."""
    root, made = tmp_path_factory.mktemp("families"), {}
    for number, name in enumerate(CASES):
        raw = families()[name]
        source = write_folder(
            root / f"{name}-hf",
            newer_form(raw) if number % 2 else raw,
            hf_tensors(ModelConfig.from_hf(raw)),
        )
        convert(source, root / name)
        made[name] = root / name
    return made


@pytest.mark.parametrize("name", families())
@pytest.mark.parametrize("form", [dict, newer_form])
def test_a_written_config_is_that_of_the_model(name, form):
    raw = form(dict(block_config(families()[name])))
    config = ModelConfig.from_hf(raw)
    for layers in (EXIT, config.num_hidden_layers):
        written = exported_config(raw, config, "float16", layers)
        window, slides = config.sliding_window, config.sliding_layers
        rotates = config.rope_layers and config.rope_layers[:layers]
        if slides is not None:  # of layers that are all alike only the window is kept
            slides = slides[:layers]
            window = window if any(slides) else None
            slides = slides if len(set(slides)) == 2 else None
        assert ModelConfig.from_hf(written) == replace(
            config,
            num_hidden_layers=layers,
            sliding_window=window,
            sliding_layers=slides,
            rope_layers=None if rotates is None or all(rotates) else rotates,
        )
        # As transformers 4 reads them: the older form of RoPE, and one dtype.
        if raw["model_type"] != "ministral3":  # which 4 does not have
            assert "rope_parameters" not in written
            assert written["rope_theta"] == config.rope.theta
        assert {written["dtype"], written["torch_dtype"]} == {"float16"}


def test_a_text_model_inside_an_image_model_is_written_alone():
    inner = raw_config()
    del inner["model_type"]
    raw = {"model_type": "mistral3", "vision_config": {}, "text_config": inner, "dtype": "bfloat16"}
    config = ModelConfig.from_hf(raw_config())
    written = exported_config(raw, config, "float32", 4)
    assert written["architectures"] == ["MistralForCausalLM"]
    assert ModelConfig.from_hf(written) == config
    with pytest.raises(InputError, match="family 'gpt2' cannot be exported"):
        exported_config({"model_type": "gpt2"}, config, "float32", 4)


def test_architectures_are_those_of_transformers(torch):
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for family in FAMILIES:
        assert ARCHITECTURES[family] == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]


@pytest.mark.parametrize("name", CASES)
def test_truncated_it_is_a_model_of_fewer_layers(of_families, name, tmp_path, torch):
    from transformers import AutoModelForCausalLM

    export(of_families[name], tmp_path / "hf", exit_layer=EXIT)
    tokens_BS, lengths_B = prompts()
    expected = exit_logits(model_of(families()[name]), tokens_BS[:1], lengths_B[:1], EXIT)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.config.num_hidden_layers == len(theirs.model.layers) == EXIT
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens_BS[:1])).logits[0, -1].numpy()
    np.testing.assert_allclose(expected[0], logits, atol=1e-5)


def test_truncated_as_a_checkpoint(tiny_path, tmp_path):
    """No layer of those that are left out is read; the same through the command line."""
    args = ["export", tiny_path, tmp_path / "two", "--exit", EXIT, "--to", "checkpoint"]
    assert main(list(map(str, args))) == 0
    manifest = read_manifest(tmp_path / "two")
    assert manifest["source"]["path"] == f"{tiny_path} at exit {EXIT}"
    assert not [key for key in manifest["leaves"] if key.startswith(("layers.2", "layers.3"))]
    model, _ = jaxdepth.load(tiny_path)
    two, tokenizer = jaxdepth.load(tmp_path / "two")
    assert two.depth == EXIT
    assert tokenizer.get_vocab() == load_tokenizer(tiny_path).get_vocab()
    tokens_BS, lengths_B = prompts()
    ours, theirs = (exit_logits(m, tokens_BS, lengths_B, EXIT) for m in (model, two))
    np.testing.assert_array_equal(ours, theirs)
    for exit_layer in (0, 5):
        with pytest.raises(InputError, match=rf"exit {exit_layer}: expected one of 1 to 4"):
            export(tiny_path, tmp_path / "none", exit_layer=exit_layer)
    assert [p.name for p in tmp_path.iterdir()] == ["two"]


def test_a_lens_is_exported_where_it_is_not_read(tiny_path, tmp_path):
    """Its bias alone moves the logits, and no weight of the norm or the head can do that."""
    model, _ = jaxdepth.load(tiny_path)
    form = Form((), (), None, lens_exits=(1, 3), lens_rank=2)
    params = shaken(init_params(model, form, 0, jax.random.key(0)), 0.3)
    file = str(tmp_path / "lens.safetensors")
    save_adapter(tmp_path / "lens.safetensors", Adapter(form, params, None, (), {}))
    for exit_layer in (1, 3):
        with pytest.raises(InputError, match=rf"reads exit {exit_layer} through a lens"):
            export(tiny_path, tmp_path / "hf", file, exit_layer=exit_layer)
    with pytest.raises(InputError, match="is a lens"):
        export(tiny_path, tmp_path / "hf", file)
    export_checkpoint(tiny_path, tmp_path / "two", file, exit_layer=EXIT)
    tokens_BS, lengths_B = prompts()
    tuned, _ = jaxdepth.load(tiny_path, adapter=file)
    two, _ = jaxdepth.load(tmp_path / "two")
    ours, theirs = (exit_logits(m, tokens_BS, lengths_B, EXIT) for m in (tuned, two))
    np.testing.assert_array_equal(ours, theirs)


def test_an_adapter_is_merged_in_the_wider_dtype(tmp_path):
    """A bfloat16 base with an adapter, asked for in float32, is not rounded in between."""
    config = ModelConfig.from_hf(raw_config())
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in hf_tensors(config).items()}
    convert(write_folder(tmp_path / "source", raw_config(), half), tmp_path / "base")
    base, _ = jaxdepth.load(tmp_path / "base", dtype="float32")
    form = Form((0, 3), ("q",), 2, 4.0)
    params = shaken(init_params(base, form, 0, jax.random.key(0)), 0.1)
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, Adapter(form, params, None, (), {}), dtype="float32")
    product = params["layers.q.a"][1] @ params["layers.q.b"][1] * form.scale
    wide, _ = jaxdepth.load(tmp_path / "base", dtype="float32", adapter=file)
    np.testing.assert_allclose(wide.layers.q[...][3], base.layers.q[...][3] + product, atol=1e-6)
    narrow, _ = jaxdepth.load(tmp_path / "base", adapter=file)
    assert narrow.layers.q[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow.layers.q[...], wide.layers.q[...].astype(jnp.bfloat16))


def test_the_tokenizers_own_files_are_copied(tmp_path):
    """A file that transformers 4 reads is kept to the byte."""
    tokenizer = build("chatml")
    raw = raw_config(vocab_size=len(tokenizer))
    source = write_folder(tmp_path / "source", raw, hf_tensors(ModelConfig.from_hf(raw)))
    tokenizer.save_pretrained(source)
    config = readable_by_4(json.loads((source / "tokenizer_config.json").read_text()))
    config |= {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "hf" / name).read_bytes() == (source / name).read_bytes()
    weights, written = (tmp_path / "hf" / n for n in ("model.safetensors", "config.json"))
    assert weights.stat().st_mode == written.stat().st_mode


@pytest.mark.parametrize("new", [False, True])
def test_what_transformers_5_saved_is_written_for_4(tiny_path, tmp_path, new):
    """`tiny_path` has a tokenizer that transformers 5 saved; an adapter may add words to it."""
    base, tokenizer = jaxdepth.load(tiny_path)
    saved = json.loads((tiny_path / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "TokenizersBackend"
    file = None
    if new:
        form = Form((0,), ("q",), 2, first_new=len(tokenizer))
        params = init_params(base, form, 1, jax.random.key(0))
        file = tmp_path / "adapter.safetensors"
        save_adapter(file, Adapter(form, params, None, ("<|yes|>",), {}))
    export(tiny_path, tmp_path / "hf", str(file) if new else None)
    written = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only", "backend", "extra_special_tokens"} & set(written)
    assert ("<|yes|>" in written.get("additional_special_tokens", [])) == new
    assert written["eos_token"] == saved["eos_token"]
    again, text = load_tokenizer(tmp_path / "hf"), "a <|im_end|> <|yes|>b"
    _, expected = jaxdepth.load(tiny_path, adapter=file)
    assert again(text)["input_ids"] == expected(text)["input_ids"]
    assert again.chat_template == expected.chat_template


def test_extra_special_tokens_are_moved():
    newer = {"extra_special_tokens": ["<a>", "<b>"], "additional_special_tokens": ["<b>"]}
    assert readable_by_4(newer) == {"additional_special_tokens": ["<b>", "<a>"]}
    older = {"extra_special_tokens": {"image_token": "<i>"}, "tokenizer_class": "LlamaTokenizer"}
    assert readable_by_4(older) == older


@pytest.mark.parametrize(
    "kind", [pytest.param("huggingface", marks=pytest.mark.slow), "checkpoint"]
)
def test_a_killed_export_is_made_anew(tiny_path, tmp_path, kind):
    target = tmp_path / "out"
    code = (
        "import sys, time; from safetensors import numpy; import jaxdepth.weights.export as e\n"
        "e.save_file = lambda *a, **k: (print('writing', flush=True), time.sleep(60))\n"
        "from jaxdepth.cli import main; main(sys.argv[1:])"
    )
    args = ["export", str(tiny_path), str(target), "--to", kind]
    killed = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE)
    assert killed.stdout.readline() == b"writing\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = os.listdir(tmp_path)
    assert left
    assert target.name not in left
    assert main(args) == 0
    assert os.listdir(tmp_path) == [target.name]


def test_a_full_disk_leaves_nothing(tiny_path, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_args, **_more):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("jaxdepth.weights.export.save_file", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        export(tiny_path, tmp_path / "hf")
    assert not os.listdir(tmp_path)


def test_the_same_export_again_finds_it_done(tiny_path, tmp_path, monkeypatch):
    """As after a kill at the very end; another request is not taken for it."""
    assert export(tiny_path, tmp_path / "hf", exit_layer=2)
    assert export_checkpoint(tiny_path, tmp_path / "model", exit_layer=2)
    monkeypatch.setattr("jaxdepth.weights.export.load", lambda *args, **kwargs: 1 / 0)  # not read
    assert not export(tiny_path, tmp_path / "hf", exit_layer=2)
    assert not export_checkpoint(tiny_path, tmp_path / "model", exit_layer=2)
    for again, target in ((export, "hf"), (export_checkpoint, "model"), (export, "model")):
        with pytest.raises(InputError, match="exists, and is not what this command exports"):
            again(tiny_path, tmp_path / target, exit_layer=1)
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="exists, and is not"):
        export(tiny_path, tmp_path / "hf", exit_layer=2)


def test_what_an_interrupted_export_left_is_removed(tiny_path, tmp_path):
    for name in (".model.elsewhere-7.scratch", ".model.elsewhere-7.partial", ".hf.old-3.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    export_checkpoint(tiny_path, tmp_path / "model", exit_layer=1)
    export(tiny_path, tmp_path / "hf", exit_layer=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model"]
