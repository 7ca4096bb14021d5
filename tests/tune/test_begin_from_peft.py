"""Tuning that begins from a PEFT folder: with its factors, form and prompts, or not at all."""

import numpy as np
import pytest
from folders.peft import write_adapter
from tiny_tokenizers import LLAMA2

import jaxdepth
from jaxdepth import InputError
from jaxdepth.model.tuned import Form
from jaxdepth.study.tuning.run import _check_start_tokenizer, _start
from jaxdepth.weights.checkpoint import load_tokenizer

EVERY = (0, 1, 2, 3)
FORM = Form(EVERY, ("q", "v"), rank=2, alpha=8.0)
PLACES = [(name, layer) for name in ("q", "v") for layer in EVERY]


def test_the_factors_and_the_form_are_those_of_the_folder(tiny_path, tmp_path):
    base, _ = jaxdepth.load(tiny_path)
    factors = write_adapter(tmp_path / "a", PLACES)
    params = _start(str(tmp_path / "a"), FORM, base, "any")
    for (name, layer), (b, a) in factors.items():
        np.testing.assert_array_equal(params[f"layers.{name}.a"][layer], a.T)
        np.testing.assert_array_equal(params[f"layers.{name}.b"][layer], b.T)
    write_adapter(tmp_path / "b", PLACES, lora_alpha=4)
    with pytest.raises(InputError, match="the same layers, leaves, rank and alpha"):
        _start(str(tmp_path / "b"), FORM, base, "any")
    write_adapter(tmp_path / "c", PLACES[:-1])
    with pytest.raises(InputError, match=r"no factors in some layers for layers\.v\.a"):
        _start(str(tmp_path / "c"), FORM, base, "any")


def test_prompts_must_be_written_as_they_were(tiny_path, tmp_path):
    write_adapter(tmp_path / "a", PLACES)
    tokenizer = load_tokenizer(tiny_path)
    _check_start_tokenizer(tiny_path, str(tmp_path / "a"), len(tokenizer))
    tokenizer.save_pretrained(tmp_path / "a")
    _check_start_tokenizer(tiny_path, str(tmp_path / "a"), len(tokenizer))
    (tmp_path / "a" / "chat_template.jinja").write_text(LLAMA2)
    with pytest.raises(InputError, match="differs from the checkpoint's in chat template"):
        _check_start_tokenizer(tiny_path, str(tmp_path / "a"), len(tokenizer))
