"""`jaxdepth inspect` of a PEFT folder: what it is, whether it loads, and if not why."""

import json
import shutil

import numpy as np
import pytest
from folders.peft import CONFIG, RAW, module_of, write_adapter
from safetensors.numpy import save_file
from tiny import hf_tensors, write_folder
from tiny_tokenizers import CHATML, byte_level, wrap

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.study.inspection.inspect import inspect
from jaxdepth.weights.adapter import adapter_digest, read_adapter
from jaxdepth.weights.huggingface.peft_header import read_peft_header

PLACES = [("q", 1), ("q", 2), ("v", 1), ("down", 0), ("down", 3)]


def rows(path) -> dict[str, str]:
    description = inspect(path)
    assert description.kind == "a PEFT adapter"
    named, last = {}, ""
    for name, text in description.rows:
        last = name or last
        named[last] = f"{named[last]} {text}" if last in named else text
    return named


def test_what_loads(tmp_path, capsys):
    path = tmp_path / "a"
    named = {"base_model_name_or_path": "org/base", "revision": "v1", "peft_version": "0.15.0"}
    factors = write_adapter(
        path, PLACES, {("v", 1): 3}, rank_pattern={"v_proj": 3}, target_modules=".*", **named
    )
    shown = rows(path)
    assert shown["form"] == "LoRA, ranks 2, 3, alpha 8"
    assert shown["of"] == "q of layers 2-3; v of layers 2; down of layers 1, 4"
    numbers = sum(b.size + a.size for b, a in factors.values())
    assert shown["tensors"] == f"10 of F32, {numbers:,} numbers"
    assert shown["initialised"] == "true, on the base as it was published"
    assert shown["base"] == "org/base, revision v1"
    assert shown["tokenizer"] == "none of its own: the base's is used"
    assert "chat template" not in shown
    size = (path / "adapter_model.safetensors").stat().st_size
    assert f"adapter_model.safetensors: {size / 1e3:.3g} kB" in shown["file"]
    assert shown["sha256"] == adapter_digest(str(path))
    assert shown["made by"] == "PEFT 0.15.0"
    assert shown["loads"] == (
        "yes, with --adapter: merged into a base of 4 layers or more with q 64 x 64, v 64 x 32, "
        "down 112 x 64 (inputs x outputs)"
    )
    form = read_adapter(str(path), CONFIG).form
    assert (set(form.leaves), list(form.layers)) == ({"q", "v", "down"}, [0, 1, 2, 3])
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: a PEFT adapter\n  form")


def test_its_own_tokenizer_and_template(tmp_path):
    path = tmp_path / "a"
    write_adapter(path, PLACES[:1], use_rslora=True, alpha_pattern={"k_proj": 2})
    assert rows(path)["form"].endswith(
        "alpha 8 (and others by module), scaled by the root of the rank"
    )
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    shown = rows(path)
    assert shown["tokenizer"] == "the base's, changed by tokenizer_config.json"
    assert shown["chat template"].startswith(f"{len(CHATML)} characters: {{% for m in messages")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    assert rows(path)["chat template"] == "14 characters: {{ messages }}"
    wrap(byte_level(["<|im_end|>"]), CHATML, None, "<|im_end|>").save_pretrained(path)
    shown = rows(path)
    assert shown["tokenizer"] == "900 tokens, BOS none, EOS <|im_end|> (0)"
    assert shown["chat template"].startswith(f"{len(CHATML)} characters: ")


def half(path):
    file = path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def pickled(path):
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


def other_tokenizer(path):
    (path / "tokenizer.model").write_bytes(b"x")


def numbered(path):
    """A layer by a number that is not written so, and one that no model has."""
    a = np.zeros((2, 64), np.float32)
    names = (module_of("q", 1).replace("layers.1", "layers.01"), module_of("q", "9" * 5000))
    save_file(
        {f"base_model.model.{n}.lora_A.weight": a for n in names},
        path / "adapter_model.safetensors",
    )


REFUSED = {
    "pissa": ({"init_lora_weights": "pissa"}, None, "changes the base before training"),
    "start": ({"init_lora_weights": [HOSTILE := "\x1b[2J"]}, None, "init_lora_weights is "),
    "infinite start": ({"init_lora_weights": float("inf")}, None, "init_lora_weights is 'inf'"),
    "dora": ({"use_dora": True, "peft_type": "LOHA"}, None, "peft_type 'LOHA', use_dora"),
    "rank": ({"r": None}, None, "r is None, expected a number"),
    "target": ({"target_modules": ["v_proj"]}, None, "does not name to PEFT"),
    "shape": ({"rank_pattern": {"q_proj": 5}}, None, "expected (5, 64)"),
    "half": ({}, half, "damaged or incomplete"),
    "pickled": ({}, pickled, "it has no adapter_model.safetensors (adapter_model.bin can run code"),
    "no config": (
        {},
        lambda path: (path / "adapter_config.json").unlink(),
        "no adapter_config.json",
    ),
    "tokenizer": ({}, other_tokenizer, "has tokenizer.model but no tokenizer.json"),
    "numbered": ({}, numbered, "cannot read "),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_for_the_reason_that_loading_gives(kind, tmp_path, capsys):
    settings, change, says = REFUSED[kind]
    path = tmp_path / "a"
    write_adapter(path, PLACES[:2], **settings)
    if change is not None:
        change(path)
    shown = rows(path)
    assert shown["loads"].startswith("no: ")
    assert says in shown["loads"]
    if kind != "tokenizer":  # which is read when a checkpoint is loaded
        with pytest.raises(InputError) as error:
            read_adapter(str(path), CONFIG)
        assert shown["loads"] == f"no: {error.value}"
    assert main(["inspect", str(path)]) == 0
    assert HOSTILE not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not valid JSON"), ("[]", "not an object of JSON")]
)
def test_a_broken_config_is_one_line(content, says, tmp_path):
    write_adapter(tmp_path / "a", PLACES[:1])
    (tmp_path / "a" / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=says):
        inspect(tmp_path / "a")


def test_a_config_of_the_base_beside_it_and_a_whole_model(tmp_path):
    write_adapter(tmp_path / "a", PLACES[:1])
    (tmp_path / "a" / "config.json").write_text(json.dumps(RAW))
    assert rows(tmp_path / "a")["loads"].startswith("yes")
    model = write_folder(tmp_path / "m", RAW, hf_tensors(CONFIG))
    shutil.copy(tmp_path / "a" / "adapter_config.json", model)
    assert inspect(model).kind == "a Hugging Face folder, not converted"


def test_the_header_is_what_loading_reads(tmp_path):
    write_adapter(tmp_path / "a", PLACES, target_modules=".*")
    header = read_peft_header(tmp_path / "a")
    form = read_adapter(str(tmp_path / "a"), CONFIG).form
    assert header.all_layers == list(form.layers)
    assert list(header.layers) == list(form.leaves)
    assert header.ranks == [form.rank]
