"""GGUF files of some depth, as `jaxdepth bench` gives them to llama.cpp."""

from importlib.util import find_spec

import numpy as np
import pytest
from tiny import model_of, raw_config

import jaxdepth
from jaxdepth.study.planning import llama_cpp
from jaxdepth.study.planning.bench import depths_of_line
from jaxdepth.weights.export import model_tensor
from jaxdepth.weights.sources import open_source, source_tensors

PLAIN = raw_config(sliding_window=None)
DEPTH, S, T = 2, 9, 6


@pytest.fixture(scope="module")
def model():
    return model_of(PLAIN)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "two.gguf"
    llama_cpp.write_truncated(model, DEPTH, path)
    return path


def test_a_file_has_the_first_layers(model, file):
    source = open_source(file)
    assert source.config.num_hidden_layers == DEPTH
    tensors = source_tensors(source)
    assert {t.layer_and_parameter[0] for t in tensors} == {None, *range(DEPTH)}
    for tensor in tensors:
        assert np.array_equal(source.read(tensor), model_tensor(model, tensor))


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
def test_llama_cpp_says_what_the_exit_says(model, file):
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, S))
    expected = jaxdepth.generate(model, tokens, np.full(3, S), [DEPTH], T).tokens[:, 0]
    assert np.array_equal(llama_cpp.LlamaCpp(file, 3, S + T).run(tokens, T), expected)


def test_only_what_a_file_can_say_is_compared(model, monkeypatch):
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: True)
    assert llama_cpp.why_not(model.config) is None
    assert "plain form" in llama_cpp.why_not(model_of(raw_config(sliding_window=16)).config)
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    assert "pip install" in llama_cpp.why_not(model.config)


def test_three_depths_stand_for_all():
    assert depths_of_line(30) == (1, 15, 30)
    assert depths_of_line(1) == (1,)
