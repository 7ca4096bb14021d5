"""A run is resumed only with the tokenizer and the chat template that it began with."""

import json
import shutil
from pathlib import Path

import pytest
from folders.peft import write_adapter
from studies import settings_of
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import CHATML, byte_level, wrap
from tokenizers import Tokenizer

from jaxdepth import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.identity import template_digest, tokenizer_digest
from jaxdepth.runtime.progress import silent
from jaxdepth.study.checkpoints.knowledge import measure_knowledge, read_questions
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.policies.run import sweep_policies
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.probes.behaviour import read_behaviour
from jaxdepth.study.probes.run import probe
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.run_directory import Run
from jaxdepth.study.subject import open_subject
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.thinking.probe import fit_probe
from jaxdepth.study.thinking.settings import ThinkThenDecide
from jaxdepth.study.tuning.run import tune
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.weights.convert import convert

SPECIALS = ["<|im_start|>", "<|im_end|>"]
# The same but for a conversation with a system message.
OTHER = "{% if messages[0].role == 'system' %}Obey.\n{% endif %}" + CHATML
SYSTEM_DATED = OTHER.replace("Obey.", "{{ strftime_now('%d %b %Y') }}")
WORDS = ["the"]
RAW = raw_config(vocab_size=901, num_hidden_layers=2)


def tokenizer_of(template, words=()):
    backend = byte_level(SPECIALS)
    backend.add_tokens(list(words))
    return wrap(backend, template, "<|im_end|>", "<|im_end|>")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same weights with the same tokenizer files, another template, and another tokenizer."""
    folder, made = tmp_path_factory.mktemp("identity"), {}
    kinds = {"one": (CHATML,), "template": (OTHER,), "tokenizer": (CHATML, WORDS)}
    for kind, what in kinds.items():
        source = write_folder(folder / f"{kind}-hf", RAW, hf_tensors(ModelConfig.from_hf(RAW)))
        tokenizer_of(*what).save_pretrained(source)
        made[kind] = folder / kind
        convert(source, made[kind])
    return made


def open_run(model, out, **changes):
    """Open a run as every study does, which computes nothing; its settings in run.json."""
    subject = open_subject(settings_of(Sweep, model, out, **{"limit": 1} | changes), "2")
    subject.open_run(subject.resolved())
    return json.loads((out / "run.json").read_text())["settings"]


def refused(model, out, **changes) -> str:
    """The error of opening a run, which leaves what is there as it is."""
    before = (out / "run.json").read_bytes()
    with pytest.raises(InputError) as error:
        open_run(model, out, **changes)
    assert (out / "run.json").read_bytes() == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_template_or_tokenizer_is_refused_by_name(models, tmp_path):
    run = tmp_path / "run"
    first = open_run(models["one"], run)
    restore = ": restore what it began with, or name another --out"
    assert (
        refused(models["template"], run) == f"{run} holds a run with another chat template{restore}"
    )
    assert refused(models["tokenizer"], run) == f"{run} holds a run with another tokenizer{restore}"
    assert "with limit = 1, not 2" in refused(models["one"], run, limit=2)
    others = [open_run(models[kind], tmp_path / kind) for kind in ("template", "tokenizer")]
    assert len({settings["model_fingerprint"] for settings in (first, *others)}) == 1
    assert len({settings["template_sha256"] for settings in (first, *others)}) == 2
    assert len({settings["tokenizer_sha256"] for settings in (first, *others)}) == 2


def test_what_is_moved_is_the_same(models, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "asked.txt").write_text("How do I bake bread?\n")
    monkeypatch.chdir(tmp_path / "a")
    run = tmp_path / "run"
    first = open_run(models["one"], run, prompts=("harmless=asked.txt",))
    shutil.move(tmp_path / "a", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.copytree(models["one"], tmp_path / "moved"))
    prompts = ("harmless=b/asked.txt",)
    assert open_run(moved, run, prompts=prompts, memory_gb=1.0) == first
    (tmp_path / "b" / "asked.txt").write_text("How do I bake a cake?\n")
    assert "with prompts_sha256 = " in refused(moved, run, prompts=prompts)
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert (facts["prompts"], facts["memory_gb"]) == (["harmless=asked.txt"], 2.0)


def test_a_system_prompt_and_a_prefill_are_part_of_a_run(tmp_path):
    """With the day, too, where the template prints it beside a system prompt alone."""
    source = write_folder(tmp_path / "hf", RAW, hf_tensors(ModelConfig.from_hf(RAW)))
    tokenizer_of(SYSTEM_DATED).save_pretrained(source)
    convert(source, tmp_path / "model")
    model, run = tmp_path / "model", tmp_path / "run"
    given = {"system": "Be brief.", "prefill": "Sure", "date": "2026-01-31"}
    first = open_run(model, run, **given)
    assert (first["system"], first["prefill"], first["date"]) == tuple(given.values())
    (tmp_path / "system.txt").write_text("Be brief.\n")  # the same text, in a file
    assert open_run(model, run, **given | {"system": str(tmp_path / "system.txt")}) == first
    for name, value in {"system": "Be kind.", "prefill": "Yes", "date": "2026-02-01"}.items():
        assert f"holds a run with {name} = " in refused(model, run, **given | {name: value})
    assert "date" not in open_run(model, tmp_path / "other", date="2026-01-31")


def test_the_template_that_an_adapter_brings(models, tmp_path):
    adapter, run = tmp_path / "peft", tmp_path / "run"
    write_adapter(adapter, [("q", 1)])
    without = open_run(models["one"], run, adapter=str(adapter))
    (adapter / "chat_template.jinja").write_text(OTHER)
    assert "another adapter, chat template: " in refused(models["one"], run, adapter=str(adapter))
    brought = open_run(models["one"], tmp_path / "new", adapter=str(adapter))
    assert brought["tokenizer_sha256"] == without["tokenizer_sha256"]
    assert brought["template_sha256"] != without["template_sha256"]
    tokenizer_of(OTHER, WORDS).save_pretrained(adapter)
    assert "another adapter, tokenizer: " in refused(
        models["one"], tmp_path / "new", adapter=str(adapter)
    )


def test_the_reference_is_covered_too(models, tmp_path):
    run = tmp_path / "run"
    open_run(models["one"], run, reference=models["one"])
    for kind, word in (("template", "chat template"), ("tokenizer", "tokenizer")):
        message = refused(models["one"], run, reference=models[kind])
        assert f"holds a run with another {word} of the reference: " in message
    assert "with reference_fingerprint = " in refused(models["one"], run)


def test_a_run_of_an_earlier_version(models, tmp_path):
    settings = settings_of(Sweep, models["one"], tmp_path / "run", limit=1)
    subject = open_subject(settings, "2")
    resolved = subject.resolved()
    earlier = {k: v for k, v in resolved.items() if not k.startswith(("tokenizer", "template"))}
    Run.open(tmp_path / "run", earlier | {"memory_gb": 2.0}, {})
    message = refused(models["one"], tmp_path / "run")
    assert "holds a run of an earlier version of jaxdepth, which did not record" in message
    frame = tmp_path / "other"
    Run.open(frame, resolved | {"template_sha256": "0"}, {}).write_table(
        "prompts", PROMPTS.from_rows([])
    )
    with pytest.raises(
        InputError, match="other is a run with another chat template: make it again"
    ):
        read_behaviour(frame, subject.prompts, resolved)


def know(settings):
    measure_knowledge(settings, read_questions("builtin:facts"))


def probe_before_thought(settings):
    fit_probe(settings, silent)


COMMANDS = {
    sweep: (Sweep, {"limit": 1}),
    sweep_policies: (PolicySweep, {"limit": 1, "policy": ("fixed=1",)}),
    probe: (Probe, {"limit": 6, "folds": 3}),
    know: (Probe, {}),
    probe_before_thought: (ThinkThenDecide, {"limit": 1}),
    tune: (Tune, {}),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_records_both(command, models, tmp_path, monkeypatch):
    opened = []

    def stop(path, settings, provenance):
        opened.append(settings)
        raise InputError("enough")

    monkeypatch.setattr(Run, "open", stop)
    cls, values = COMMANDS[command]
    settings = settings_of(cls, models["one"], tmp_path / "run", **values)
    with pytest.raises(InputError, match="enough"):
        command(settings)
    resolved = open_subject(settings_of(Sweep, models["one"], tmp_path / "any", limit=1)).resolved()
    for name in ("tokenizer_sha256", "template_sha256"):
        assert opened[0][name] == resolved[name]


def test_a_date_that_only_other_conversations_have_changes_nothing():
    tokenizer = tokenizer_of(SYSTEM_DATED)
    one, other = (PromptEncoder(tokenizer, date=day) for day in ("2031-07-01", "2032-08-03"))
    assert one.date is None
    assert one.template_digest == other.template_digest


def test_the_digest_of_a_tokenizer():
    tokenizer = tokenizer_of(CHATML)
    first = tokenizer_digest(tokenizer)
    tokenizer("a b c", truncation=True, max_length=2)
    tokenizer.chat_template = OTHER
    assert tokenizer_digest(tokenizer) == first
    assert tokenizer_digest(tokenizer_of(CHATML, WORDS)) != first
    tokenizer.eos_token = "<|im_start|>"
    assert tokenizer_digest(tokenizer) != first
    spec = json.loads(byte_level(SPECIALS).to_str())
    spec["model"]["merges"].pop()
    other = wrap(Tokenizer.from_str(json.dumps(spec)), CHATML, "<|im_end|>", "<|im_end|>")
    assert tokenizer_digest(other) != first


def test_the_digest_of_a_template():
    assert (
        len({template_digest(*of) for of in (([], []), (["a"], []), ([None], []), ([], ["a"]))})
        == 4
    )
    assert template_digest(["a", None], {"<x>", "<y>"}) == template_digest(
        ["a", None], ["<y>", "<x>"]
    )
    base = wrap(byte_level(SPECIALS), None, "<|im_end|>", "<|im_end|>")
    assert PromptEncoder(base).template_digest is None
