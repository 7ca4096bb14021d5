"""Converted checkpoints: what is loaded, what is compared with the source, what is refused."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from tiny import hf_tensors, model_of, prompts, raw_config, write_folder
from tiny_source import Q3, RAW, TENSORS, assert_holds

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.cpu.host_arrays import aligned_empty
from jaxdepth.model.apart import Apart
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.weights import checkpoint
from jaxdepth.weights import load as load_module
from jaxdepth.weights import verify as verify_module
from jaxdepth.weights.convert import convert
from jaxdepth.weights.verify import verify


def test_logits_survive_the_round_trip(tmp_path):
    convert(write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target")
    model, _ = jaxdepth.load(tmp_path / "target")
    logits = jaxdepth.exit_logits(model, *prompts(), 3)
    assert np.array_equal(logits, jaxdepth.exit_logits(model_of(RAW), *prompts(), 3))


def test_bfloat16_is_kept_and_can_be_widened(tmp_path):
    low = {k: v.astype(ml_dtypes.bfloat16) for k, v in TENSORS.items()}
    convert(write_folder(tmp_path / "source", RAW, low), tmp_path / "target")
    model, _ = jaxdepth.load(tmp_path / "target")
    assert {str(v.dtype) for v in jax.tree.leaves(model)} == {"bfloat16"}
    wide, _ = jaxdepth.load(tmp_path / "target", dtype="float32")
    assert np.array_equal(wide.embed[...], low["model.embed_tokens.weight"].astype(np.float32))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_filled_on_the_host_or_on_the_device_it_is_the_same(tmp_path, monkeypatch, dtype):
    raw = raw_config(hidden_size=200, intermediate_size=600)  # more than one block each way
    tensors = hf_tensors(ModelConfig.from_hf(raw))
    convert(write_folder(tmp_path / "source", raw, tensors), tmp_path / "target")
    host, _ = jaxdepth.load(tmp_path / "target", dtype=dtype)
    monkeypatch.setattr(load_module, "_host_is_device", lambda: False)
    device, _ = jaxdepth.load(tmp_path / "target", dtype=dtype)
    for one, other in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_the_device_that_is_computed_on_decides_how_weights_are_placed(tmp_path, monkeypatch):
    convert(write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # of a machine that has one
    with jax.default_device(jax.devices("cpu")[0]):
        stacked, _ = jaxdepth.load(tmp_path / "target")
    apart, _ = jaxdepth.load(tmp_path / "target")
    assert not isinstance(stacked.layers.qkv, Apart)
    assert isinstance(apart.layers.qkv, Apart)


def test_what_is_filled_on_the_host_is_not_copied():
    for dtype in (np.float32, ml_dtypes.bfloat16):
        array = aligned_empty((3, 5, 7), dtype)
        assert array.shape == (3, 5, 7)
        assert load_module._to_device(array).unsafe_buffer_pointer() == array.ctypes.data


# Verifying


def test_a_conversion_is_verified(tmp_path, capsys):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    assert main(["convert", str(source), str(tmp_path / "target"), "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"verified: {len(TENSORS)} arrays are those of {source}"
    assert lines[2].startswith("logits of every exit: within ")
    verified = verify(source, tmp_path / "target")
    assert verified.arrays == len(TENSORS)
    assert verified.logits < 1e-5


def test_flips_are_converted_as_they_are_and_named(tmp_path):
    target = tmp_path / "target"
    convert(write_folder(tmp_path / "source", RAW, TENSORS), target)
    flipped = {name: array.copy() for name, array in TENSORS.items()}
    for name in (Q3, "model.norm.weight"):
        flipped[name].view(np.uint32).flat[7] ^= 1 << 20
    source = write_folder(tmp_path / "flipped", RAW, flipped)
    with pytest.raises(InputError, match=r"2 of 39 arrays .* differ from .*: layers.3.q, norm: "):
        verify(source, target)
    convert(source, tmp_path / "other")
    assert_holds(tmp_path / "other", flipped)
    with pytest.raises(InputError, match="another model"):
        verify(write_folder(tmp_path / "third", raw_config(rms_norm_eps=1e-4), TENSORS), target)


def test_the_logits_show_what_digests_cannot(tmp_path, monkeypatch):
    """Arrays that are right on disk, and stacked in the wrong order."""
    source, target = write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target"
    convert(source, target)
    real = Mistral.__init__

    def swapped(self, config, arrays, mesh=None):
        real(self, config, arrays | {"layers.up": arrays["layers.up"][::-1]}, mesh)

    monkeypatch.setattr(verify_module, "find_spec", lambda name: None)
    reference = verify_module._model_of(verify_module.open_source(source))
    monkeypatch.setattr(verify_module, "_model_of", lambda opened: reference)
    monkeypatch.setattr(Mistral, "__init__", swapped)
    with pytest.raises(InputError, match=r"logits of .* at exit 1 are off by"):
        verify(source, target)


def test_logits_are_left_out_where_two_models_do_not_fit(tmp_path, monkeypatch):
    source, target = write_folder(tmp_path / "source", RAW, TENSORS), tmp_path / "target"
    convert(source, target)
    monkeypatch.setattr(verify_module, "_available_memory", lambda: 1000)
    verified = verify(source, target)
    assert verified.logits is None
    assert "do not fit into memory" in verified.reference


# Damage


def test_load_refuses_what_is_no_checkpoint(tmp_path):
    source = write_folder(tmp_path / "source", RAW, TENSORS)
    with pytest.raises(InputError, match="jaxdepth convert"):
        jaxdepth.load(source)
    with pytest.raises(InputError, match="jaxdepth convert"):
        jaxdepth.load(tmp_path / "nothing")


def rewrite_manifest(path, change):
    """Changes jaxdepth.json as one would who also knows its digest."""
    content = json.loads((path / checkpoint.MANIFEST).read_text())
    change(content)
    del content["sha256"]
    content["sha256"] = checkpoint._own_digest(content)
    (path / checkpoint.MANIFEST).write_text(json.dumps(content))


def test_load_notices_damage(tmp_path):
    target = tmp_path / "target"
    convert(write_folder(tmp_path / "source", RAW, TENSORS), target)
    manifest = target / checkpoint.MANIFEST
    good = manifest.read_text()
    manifest.write_text(good.replace('"chunk": 0', '"chunk": 1', 1))
    with pytest.raises(InputError, match=r"jaxdepth.json is damaged"):
        jaxdepth.load(target)
    manifest.write_text(good)
    rewrite_manifest(target, lambda c: c["leaves"]["layers.2.q"].update(sha256="0" * 64))
    with pytest.raises(InputError, match=r"layers.2.q is not what was converted"):
        jaxdepth.load(target)
    rewrite_manifest(target, lambda c: c["leaves"].pop("layers.2.q"))
    with pytest.raises(InputError, match=r"layers.2.q"):
        jaxdepth.load(target)
    manifest.write_text(good)
    data = max((target / "weights").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(InputError, match="convert again"):
        jaxdepth.load(target)


def test_load_notices_changed_small_files(tmp_path):
    target = tmp_path / "target"
    convert(write_folder(tmp_path / "source", RAW, TENSORS), target)
    config = (target / "config.json").read_text()
    (target / "config.json").write_text(config.replace("10000.0", "10001.0"))
    assert (target / "config.json").read_text() != config
    with pytest.raises(InputError, match=r"config.json is not what was converted"):
        jaxdepth.load(target)
    (target / "config.json").write_text(config)
    (target / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(InputError, match=r"chat_template.jinja is not what was converted"):
        jaxdepth.load(target)
