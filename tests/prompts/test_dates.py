"""Chat templates that print the date: one date for a run, whatever day it is."""

import json
from datetime import date

import pytest
from studies import settings_of
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, byte_level, wrap

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.prompts import chat
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.template import render
from jaxdepth.study import loading
from jaxdepth.study.subject import open_subject
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.weights.convert import convert

DATED = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}\n{% endif %}" + CHATML
# It asks, and prints only where there is no system prompt, as some do.
SOMETIMES = (
    "{% set today = strftime_now('%Y-%m-%d') %}"
    "{% if messages[0].role != 'system' %}{{ today }}\n{% endif %}" + CHATML
)
ASKS = "{% set today = strftime_now('%A') %}" + CHATML
TEMPLATES = {"dated": DATED, "sometimes": SOMETIMES, "asks": ASKS, "none": CHATML}


@pytest.fixture(scope="module")
def tokenizers():
    return {k: wrap(byte_level(["<|im_start|>", "<|im_end|>"]), t, "<|im_end|>", "<|im_end|>")
            for k, t in TEMPLATES.items()}  # fmt: skip


class Tuesday(date):
    @classmethod
    def today(cls):
        return date(2031, 7, 1)


def test_the_date_of_a_prompt(tokenizers, monkeypatch):
    monkeypatch.setattr(chat, "Date", Tuesday)
    dated = tokenizers["dated"]
    encoder = PromptEncoder(dated, date="2024-02-29")
    assert encoder.date == "2024-02-29"
    assert dated.decode(encoder.encode("Hi")).startswith("29 Feb 2024\n<|im_start|>user\nHi")
    today = PromptEncoder(dated)
    assert today.date == "2031-07-01"
    assert "01 Jul 2031" in dated.decode(today.encode("Hi"))
    assert "29 Feb 2024" in dated.decode(PromptEncoder(dated, "Be brief.", "2024-02-29").encode(""))
    sometimes = tokenizers["sometimes"]
    assert PromptEncoder(sometimes, date="2024-02-29").date == "2024-02-29"
    assert PromptEncoder(sometimes, "Be brief.", "2024-02-29").date is None


@pytest.mark.parametrize("kind", ["asks", "none"])
def test_templates_that_print_none(tokenizers, kind):
    encoder = PromptEncoder(tokenizers[kind], date="2024-02-29")
    assert encoder.date is None
    assert encoder.encode("Hi") == PromptEncoder(tokenizers["none"]).encode("Hi")


def test_without_a_date_it_is_now_as_in_transformers(tokenizers):
    conversation = [([{"role": "user", "content": "Hi"}], True)]
    ours = render(tokenizers["dated"], conversation)[0].text
    theirs = tokenizers["dated"].apply_chat_template(
        conversation[0][0], add_generation_prompt=True, tokenize=False
    )
    assert ours == theirs


@pytest.fixture(scope="module")
def models(tokenizers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated")
    raw = raw_config(vocab_size=900, num_hidden_layers=2)
    for kind in ("dated", "none"):
        source = write_folder(folder / kind, raw, hf_tensors(ModelConfig.from_hf(raw)))
        tokenizers[kind].save_pretrained(source)
        convert(source, folder / f"{kind}-model")
    return folder


def open_run(model, out, **changes):
    """Open a run as every study does, which computes nothing; its settings in run.json."""
    settings = settings_of(Sweep, model, out, limit=1, **changes)
    subject = open_subject(settings, "2")
    subject.open_run(subject.resolved())
    return json.loads((out / "run.json").read_text())["settings"]


def test_a_run_keeps_the_date_that_it_began_with(models, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "date", Tuesday)
    model, run = models / "dated-model", tmp_path / "run"
    assert open_run(model, run)["date"] == "2031-07-01"
    monkeypatch.setattr(loading, "date", date)
    assert open_run(model, run)["date"] == "2031-07-01"  # on another day
    assert open_subject(settings_of(Sweep, model, run, limit=1), "2").encoder.date == "2031-07-01"
    with pytest.raises(InputError, match=r'with date = "2031-07-01", not "2024-02-29"'):
        open_run(model, run, date="2024-02-29")
    assert open_run(model, tmp_path / "other", date="2024-02-29")["date"] == "2024-02-29"
    with pytest.raises(InputError, match=r"the date is '29.2.2024', expected one such as"):
        open_run(model, tmp_path / "bad", date="29.2.2024")
    assert not (tmp_path / "bad").exists()


def test_a_date_that_nothing_prints_is_not_recorded(models, tmp_path):
    model, dated = models / "none-model", models / "dated-model"
    assert "date" not in open_run(model, tmp_path / "run", date="2024-02-29")
    assert "date" not in open_run(model, tmp_path / "run")
    read_by = open_run(model, tmp_path / "read", reference=dated, date="2024-02-29")
    assert read_by["date"] == "2024-02-29"


def test_a_recorded_date_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "read_record", lambda path: {"settings": {"date": 7}})
    (tmp_path / "run.json").touch()
    with pytest.raises(InputError, match="the date is 7"):
        loading.run_date(None, tmp_path)
