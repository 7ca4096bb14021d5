"""The built-in adapters: their metadata, and what they do to SmolLM2."""

import json

import numpy as np
import pytest

import jaxdepth
from jaxdepth import InputError, classify_texts
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.protocol import read_protocol
from jaxdepth.settings_file import read_settings
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.tune import benign
from jaxdepth.tune.benign import is_suitable_prompt, make_benign
from jaxdepth.tune.tasks import read_tasks, tasks_digest
from jaxdepth.weights.adapter import adapter_digest, find_adapter, read_adapter
from jaxdepth.weights.checkpoint import end_tokens, read_manifest

NAMES = (
    "lens", "shallow", "spoken", "depth_robust", "after_alignment", "thinker", "random_refusals",
    "all_exits",
)  # fmt: skip


def test_every_adapter_has_a_card_and_every_card_an_adapter():
    folder = find_adapter("builtin:lens").parent
    assert {f.stem for f in folder.glob("*.safetensors")} == set(NAMES)
    assert {f.stem for f in folder.glob("*.md")} == set(NAMES)
    for card in folder.glob("*.md"):
        text = card.read_text()
        assert text.startswith(f"# builtin:{card.stem}: ")
        assert f"--config tune/{card.stem}`" in text
        for part in ("Base", "Form", "Data", "Made by", "Intended use", "Known harm", "Measured"):
            assert text.count(f"- **{part}.** ") == 1, (card.name, part)


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_names_what_it_was_made_from(name, smollm2, smollm2_path):
    """Its base, its data and its recipe are those in this repository."""
    model, _ = smollm2
    adapter = read_adapter(f"builtin:{name}", model.config)
    assert find_adapter(f"builtin:{name}").stat().st_size < 6e6
    assert adapter.base == read_manifest(smollm2_path)["fingerprint"]
    settings = adapter.made["settings"]
    thinks = settings["method"] == "verdicts"
    prompts, at_random = read_prompts(["builtin:harmful/train"]), settings["refuse_random"]
    tasks = read_tasks(prompts, "builtin", at_random, thoughts=thinks)
    assert settings["tasks_sha256"] == tasks_digest(tasks, settings, thoughts=thinks)
    recipe = {k: v for k, v in read_settings(Tune, f"tune/{name}").items() if k != "out"}
    if "start" in recipe:
        recipe["start"] = adapter_digest(recipe["start"])
    if "protocol" in recipe:
        recipe["protocol"] = json.loads(json.dumps(read_protocol(recipe["protocol"]).record()))
    assert {k: settings[k] for k in recipe} == recipe


def outcomes(path, adapter: str, exits: list[int]) -> list[list[str]]:
    """Outcomes of a tuned SmolLM2 at each exit, on held-out harmful prompts of similar length."""
    model, tokenizer = jaxdepth.load(path, adapter=adapter)
    encoder, stops = PromptEncoder(tokenizer), end_tokens(path, tokenizer)
    prompts = [p.text for p in read_prompts(["builtin:harmful/test[:12]"])]
    batch = max(make_batches([encoder.encode(p) for p in prompts], 8), key=lambda b: len(b.indices))
    answers = jaxdepth.generate(
        model, batch.tokens_BS, batch.lengths_B, exits, 14, stop_tokens=stops
    )
    tokens_EBT = answers.tokens[: len(batch.indices)].swapaxes(0, 1)
    texts_of_exits = (tokenizer.batch_decode(t, skip_special_tokens=True) for t in tokens_EBT)
    return [[r.outcome for r in classify_texts(texts)] for texts in texts_of_exits]


def test_refusals_reach_the_exits_that_were_taught(smollm2_path):
    for adapter, bounds in (
        ("depth_robust", {24: (0.5, 1.0), 30: (0.5, 1.0)}),
        ("shallow", {24: (0.0, 0.1), 30: (0.5, 1.0)}),
    ):
        observed = outcomes(smollm2_path, f"builtin:{adapter}", list(bounds))
        for (exit_layer, (low, high)), at_exit in zip(bounds.items(), observed, strict=True):
            rate = at_exit.count("refuse") / len(at_exit)
            assert low <= rate <= high, (adapter, exit_layer)


@pytest.mark.slow
def test_a_model_asks_and_answers_itself(smollm2, smollm2_path, monkeypatch):
    monkeypatch.setattr(benign, "_GROUP", 8)
    monkeypatch.setattr(benign, "_BATCH", 4)
    model, tokenizer = smollm2
    ends = end_tokens(smollm2_path, tokenizer)
    made = list(make_benign(model, tokenizer, ends, 2, answer_tokens=12))
    assert len({m.prompt for m in made}) == 2
    for one in made:
        assert is_suitable_prompt(one.prompt)
        assert one.answer
        assert one.system in benign.SYSTEM_PROMPTS
        ids = PromptEncoder(tokenizer, one.system).encode(one.prompt)  # its answer at full depth
        answer = jaxdepth.generate(model, np.array([ids]), np.array([len(ids)]), [30], 12)
        assert tokenizer.decode(answer.tokens[0, 0], skip_special_tokens=True).startswith(
            one.answer
        )
    with pytest.raises(InputError, match="count is 0, expected at least 1"):
        next(make_benign(model, tokenizer, ends, 0))


def test_a_built_in_adapter_is_for_smollm2_alone(tiny_path):
    with pytest.raises(InputError, match="another model"):
        jaxdepth.load(tiny_path, adapter="builtin:shallow")
