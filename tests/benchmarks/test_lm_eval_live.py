"""Every exit against lm-eval's own `hf` model, on local tasks; needs torch and accelerate."""

from functools import lru_cache

import numpy as np
import pytest
from benchmark_tasks import write_tasks
from reference import hf_model
from tiny import hf_tensors, model_of, raw_config
from tiny_tokenizers import build
from tokenizers.processors import TemplateProcessing

from jaxdepth.model.config import ModelConfig

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
MAX_LENGTH = 48

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("quick_programs")]


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory, quick_programs):
    """The models of every exit, ours and Hugging Face's, with a tokenizer of some kind."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    from jaxdepth.benchmarks.lm_eval.answers import ExitAnswers
    from jaxdepth.benchmarks.lm_eval.model import ExitLM

    @lru_cache
    def pair(kind: str):
        tokenizer = build(kind)
        bos = tokenizer.bos_token, tokenizer.bos_token_id
        if kind == "llama 2":  # as that of Llama 2, it begins every text
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single=f"{bos[0]} $A", special_tokens=[bos]
            )
        raw = raw_config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
        tensors = hf_tensors(ModelConfig.from_hf(raw))
        answers = ExitAnswers(model_of(raw), tokenizer, [tokenizer.eos_token_id], [4, 1, 3], 6)
        theirs = HFLM(hf_model(raw, tensors), tokenizer=tokenizer, max_length=MAX_LENGTH)
        return [ExitLM(answers, e, MAX_LENGTH) for e in answers.exits], theirs

    return pair


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    from jaxdepth.benchmarks.lm_eval.tasks import LoadedTasks

    return LoadedTasks(
        [str(path) for path in write_tasks(tmp_path_factory.mktemp("tasks")).values()]
    )


@pytest.mark.parametrize(
    ("kind", "in_template"),
    [
        ("chatml", True),
        ("llama 2", False),
        pytest.param("chatml", False, marks=pytest.mark.slow),
        pytest.param("llama 2", True, marks=pytest.mark.slow),
    ],
)
def test_every_exit_answers_as_the_hf_model(pair_of, tasks, kind, in_template, monkeypatch):
    from lm_eval.evaluator import evaluate

    models, theirs = pair_of(kind)
    for task in tasks.tasks.values():
        task.__dict__.pop("build_all_requests", None)
        task.set_config("num_fewshot", 0 if task.OUTPUT_TYPE.endswith("rolling") else 2)
    options = {"apply_chat_template": in_template, "fewshot_as_multiturn": in_template}
    options |= {"bootstrap_iters": 0, "system_instruction": "Be brief." if in_template else None}
    longest = 0
    for model in models:
        monkeypatch.setattr(theirs.model.config, "num_hidden_layers", model.exit_layer)
        results = []
        for lm in (model, theirs):
            for task in tasks.tasks.values():
                task.set_fewshot_seed(7)
            results.append(evaluate(lm, tasks.loaded, **options))
        ours, expected = results
        assert ours["results"].keys() == expected["results"].keys()
        for name, samples in expected["samples"].items():
            for own, sample in zip(ours["samples"][name], samples, strict=True):
                assert own["arguments"] == sample["arguments"]  # prompts, written alike
                longest = max(longest, len(theirs.tok_encode(sample["arguments"][0][0])))
                compare(own["resps"], sample["resps"])
            for key, value in expected["results"][name].items():
                if isinstance(value, float):
                    np.testing.assert_allclose(ours["results"][name][key], value, rtol=1e-4)
    assert longest > MAX_LENGTH  # so that contexts are truncated, and texts read in windows


def compare(own: list, expected: list) -> None:
    """Log-probabilities to 1e-4, whether decoding is greedy, and texts."""
    for (answer,), (other,) in zip(own, expected, strict=True):
        if isinstance(other, tuple):
            assert answer[1] == other[1]
            answer, other = answer[0], other[0]
        if isinstance(other, str):
            assert answer == other
        else:
            np.testing.assert_allclose(answer, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["chatml", "llama 2"])
def test_names_and_tokens_are_those_of_the_hf_model(pair_of, kind):
    (model, *_), theirs = pair_of(kind)
    texts = ["", "A letter", "trailing  ", f"{theirs.tokenizer.bos_token}begun", " leading"]
    for text in texts:
        assert model.tok_encode(text) == theirs.tok_encode(text)
        assert model.tok_encode(text, False) == theirs.tok_encode(text, False)
    for name in ("prefix_token_id", "eot_token_id", "max_length"):
        assert getattr(model, name) == getattr(theirs, name)
