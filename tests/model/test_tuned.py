"""Tuned models: factors apart and merged, adapter files of ours and of PEFT, and export."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import families
from tiny import model_of, prompts, raw_config

import jaxdepth
from jaxdepth import InputError, exit_logits
from jaxdepth.cli import main
from jaxdepth.model.parameters import MATRICES
from jaxdepth.model.tuned import Form, attach, init_params, merge
from jaxdepth.weights.adapter import Adapter, read_adapter, save_adapter
from jaxdepth.weights.checkpoint import read_manifest
from jaxdepth.weights.convert import convert
from jaxdepth.weights.export import export, export_checkpoint

pytestmark = pytest.mark.usefixtures("quick_programs")

EVERY = (0, 1, 2, 3)
at_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))


def noisy(params, seed=1):
    keys = jax.random.split(jax.random.key(seed), len(params))
    return {
        name: value + 0.1 * jax.random.normal(key, value.shape)
        for key, (name, value) in zip(keys, sorted(params.items()), strict=True)
    }


def logits_of(model):
    tokens_BS, lengths_B = prompts()
    return at_exits(model, tokens_BS, lengths_B, jnp.array([1, 2, 3, 4]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        Form(EVERY, rank=3),
        Form((1, 3), ("q", "down"), rank=2, alpha=1.0),
        Form(EVERY, rank=2, first_new=96),
        Form((2,), rank=None),
        Form((0, 2), ("gate", "k_bias", "mlp_norm", "embed", "norm"), rank=None),
    ],
    ids=["all", "some", "tokens", "weights", "top"],
)
def test_apart_and_merged_are_the_same_model(form, tied):
    raw = raw_config() if form.layers == EVERY else families()["qwen2.5-window"]
    base = model_of(raw | {"tie_word_embeddings": tied})
    new = 2 if form.first_new else 0
    begun = init_params(base, form, new, jax.random.key(0))
    same = logits_of(attach(base, begun, form))
    np.testing.assert_allclose(same[..., :96], logits_of(base), atol=2e-6)  # it begins as the base
    params = noisy(begun)
    apart, merged = logits_of(attach(base, params, form)), logits_of(merge(base, params, form))
    np.testing.assert_allclose(apart, merged, atol=1e-5)
    assert apart.shape[-1] == 96 + new
    assert np.abs(apart[..., :96] - logits_of(base)).max() > 0.1
    below = min(form.layers)  # what is below the first trained layer stays as it is
    if below and not new:
        np.testing.assert_array_equal(apart[:below], logits_of(base)[:below])


@pytest.mark.parametrize("leaf", ["k_bias", "head"])
def test_what_a_model_does_not_have_cannot_be_trained(leaf):
    base, form = model_of(raw_config(tie_word_embeddings=True)), Form((1,), (leaf,), rank=None)
    with pytest.raises(InputError, match=f"this model has no '{leaf}' of its own to train"):
        init_params(base, form, 0, jax.random.key(0))


def test_merged_by_hand():
    base, form = model_of(raw_config()), Form((1,), ("up",), rank=2, alpha=6.0)
    params = noisy(init_params(base, form, 0, jax.random.key(0)))
    product = np.asarray(params["layers.up.a"][0]) @ np.asarray(params["layers.up.b"][0])
    expected = np.array(base.layers.up[...])
    expected[1] += 3.0 * product
    np.testing.assert_allclose(merge(base, params, form).layers.up[...], expected, atol=1e-5)


def test_new_tokens_take_free_rows_of_a_padded_table():
    base, form = model_of(raw_config()), Form((0,), ("q",), rank=1, first_new=95)
    params = init_params(base, form, 2, jax.random.key(0))
    tuned = merge(base, params, form)
    assert tuned.embed[...].shape == (97, 64)
    np.testing.assert_array_equal(tuned.embed[...][95:], params["embed_rows"])
    np.testing.assert_array_equal(tuned.embed[...][:95], base.embed[...][:95])
    assert tuned.config.vocab_size == 97


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"layers": ()}, "nothing to train"),
        ({"leaves": ("qq",)}, "'qq' cannot be trained"),
        ({"leaves": ("mlp_norm",)}, "cannot be trained"),
        ({"leaves": ("q_bias",)}, "cannot be trained"),
    ],
)
def test_forms_that_make_no_sense(args, says):
    with pytest.raises(InputError, match=says):
        Form(**({"layers": EVERY} | args))


@pytest.fixture(scope="module")
def adapter(tiny_path) -> Adapter:
    base, tokenizer = jaxdepth.load(tiny_path)
    form = Form((1, 2), ("q", "v", "down"), rank=2, first_new=len(tokenizer))
    params = noisy(init_params(base, form, 2, jax.random.key(0)))
    params = {k: v.astype(jnp.bfloat16).astype(jnp.float32) for k, v in params.items()}
    made = {"settings": {"seed": 3}}
    base_is = read_manifest(tiny_path)["fingerprint"]
    return Adapter(form, params, base_is, ("<|think|>", "<|refuse|>"), made)


@pytest.fixture(scope="module")
def adapter_file(adapter, tmp_path_factory):
    file = tmp_path_factory.mktemp("adapters") / "one.safetensors"
    save_adapter(file, adapter)
    return file


def test_a_file_holds_what_was_trained(adapter, adapter_file, tiny_path):
    base, _ = jaxdepth.load(tiny_path)
    actual = read_adapter(str(adapter_file), base.config)
    assert replace(actual, params={}) == replace(adapter, params={})
    for name, value in adapter.params.items():
        np.testing.assert_array_equal(actual.params[name], value)
    model, tokenizer = jaxdepth.load(tiny_path, adapter=adapter_file)
    expected = merge(base, adapter.params, adapter.form)
    np.testing.assert_array_equal(logits_of(model), logits_of(expected))
    assert tokenizer("<|refuse|>")["input_ids"][-1] == adapter.form.first_new + 1
    assert model.config.vocab_size == len(tokenizer)


def test_adapters_that_do_not_belong(adapter, adapter_file, tiny_path, tmp_path):
    file = tmp_path / "other.safetensors"
    save_adapter(file, replace(adapter, base="f" * 64))
    with pytest.raises(InputError, match=r"made for the base f{12}, this checkpoint is"):
        jaxdepth.load(tiny_path, adapter=file)
    save_adapter(file, replace(adapter, form=replace(adapter.form, first_new=7)))
    with pytest.raises(InputError, match="other ids"):
        jaxdepth.load(tiny_path, adapter=file)
    params = adapter.params | {"layers.q.a": jnp.zeros((2, 9, 2))}
    save_adapter(file, replace(adapter, params=params))
    with pytest.raises(InputError, match=r"layers.q.a is \(2, 9, 2\), expected \(2, 64, 2\)"):
        jaxdepth.load(tiny_path, adapter=file)
    short = {k: v for k, v in adapter.params.items() if k != "layers.q.b"}
    save_adapter(file, replace(adapter, params=short))
    with pytest.raises(InputError, match=r"lacks layers.q.b"):
        jaxdepth.load(tiny_path, adapter=file)
    file.write_bytes(adapter_file.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged or incomplete"):
        jaxdepth.load(tiny_path, adapter=file)
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, file)
    with pytest.raises(InputError, match="not an adapter of jaxdepth"):
        jaxdepth.load(tiny_path, adapter=file)
    with pytest.raises(InputError, match="no adapter nowhere"):
        jaxdepth.load(tiny_path, adapter="nowhere")
    with pytest.raises(InputError, match="no built-in adapter 'shalow'"):
        jaxdepth.load(tiny_path, adapter="builtin:shalow")


def test_peft_adapters(tiny_path, tmp_path):
    """As PEFT writes them: (R, I) and (O, R) by layer."""
    from safetensors.numpy import save_file

    base, _ = jaxdepth.load(tiny_path)
    rng = np.random.default_rng(0)
    names = {"q": "self_attn.q_proj", "down": "mlp.down_proj"}
    arrays, expected = {}, {n: np.array(getattr(base.layers, n)[...]) for n in names}
    for layer in EVERY:
        for name, module in names.items():
            inputs, outputs = expected[name].shape[1:]
            a, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, inputs), (outputs, 2)))
            stem = f"base_model.model.model.layers.{layer}.{module}"
            arrays |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            expected[name][layer] += 4.0 * (b @ a).T
    peft_config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
    }
    peft_config |= {
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "lora_dropout": 0.1,
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_config))
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    model, _ = jaxdepth.load(tiny_path, adapter=tmp_path)
    for name, array in expected.items():
        np.testing.assert_allclose(getattr(model.layers, name)[...], array, atol=1e-4)
    np.testing.assert_array_equal(model.layers.k[...], base.layers.k[...])

    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_config | {"use_dora": True}))
    with pytest.raises(InputError, match="only plain LoRA is read, this one has use_dora"):
        jaxdepth.load(tiny_path, adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_config))
    save_file(arrays | {"odd.lora_A.weight": np.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"cannot read odd.lora_A.weight"):
        jaxdepth.load(tiny_path, adapter=tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model.safetensors"):
        jaxdepth.load(tiny_path, adapter=tmp_path)


def test_exported_converts_to_the_same_model(
    tiny_path, adapter_file, tmp_path, capsys, monkeypatch
):
    args = ["export", tiny_path, tmp_path / "hf", "--adapter", adapter_file]
    assert main(list(map(str, args))) == 0
    assert main(list(map(str, args))) == 0
    assert "already exported" in capsys.readouterr().out
    assert main(list(map(str, [*args, "--dtype", "bfloat16"]))) == 2
    assert "exists" in capsys.readouterr().err
    assert convert(tmp_path / "hf", tmp_path / "again")
    model, tokenizer = jaxdepth.load(tiny_path, adapter=adapter_file)
    again, same = jaxdepth.load(tmp_path / "again")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    assert same.get_vocab() == tokenizer.get_vocab()
    assert same.chat_template == tokenizer.chat_template
    monkeypatch.setattr("jaxdepth.weights.export.SHARD_BYTES", 100_000)
    export(tiny_path, tmp_path / "shards", str(adapter_file), "bfloat16")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert convert(tmp_path / "shards", tmp_path / "half")
    half, _ = jaxdepth.load(tmp_path / "half")
    assert half.embed[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.layers.q[...], model.layers.q[...].astype(jnp.bfloat16))


def test_exported_as_a_checkpoint(tiny_path, adapter_file, tmp_path, capsys):
    args = ["export", tiny_path, tmp_path / "sub/whole", "--adapter", adapter_file]
    args += ["--to", "checkpoint"]
    assert main(list(map(str, args))) == 0
    assert main(list(map(str, args))) == 0
    assert "already exported" in capsys.readouterr().out
    assert main(list(map(str, [*args, "--dtype", "bfloat16"]))) == 2
    assert "exists" in capsys.readouterr().err
    model, _ = jaxdepth.load(tiny_path, adapter=adapter_file)
    again, _ = jaxdepth.load(tmp_path / "sub/whole")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    made_from = read_manifest(tmp_path / "sub/whole")["source"]["path"]
    assert made_from == f"{tiny_path} with {adapter_file}"
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["whole"]  # nothing in between is left
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make"):
        export_checkpoint(tiny_path, tmp_path / "file/whole")


def test_transformers_loads_what_is_exported(tiny_path, adapter_file, tmp_path, torch):
    from transformers import AutoModelForCausalLM

    export(tiny_path, tmp_path / "hf", str(adapter_file))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="float32")
    ours, _ = jaxdepth.load(tiny_path, adapter=adapter_file)
    tokens_BS, lengths_B = prompts()
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens_BS[:1])).logits[0, -1].numpy()
    np.testing.assert_allclose(
        exit_logits(ours, tokens_BS[:1], lengths_B[:1], 4)[0], logits, atol=1e-5
    )


def test_every_matrix_can_be_trained():
    assert MATRICES == ("q", "k", "v", "o", "gate", "up", "down")
