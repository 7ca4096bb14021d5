"""A tiny source to convert, and the check that a checkpoint holds its arrays."""

import numpy as np
from tiny import hf_tensors, leaves_of, raw_config

import jaxdepth
from jaxdepth.model.config import ModelConfig

RAW = raw_config()
CONFIG = ModelConfig.from_hf(RAW)
TENSORS = hf_tensors(CONFIG)
Q3 = "model.layers.3.self_attn.q_proj.weight"


def assert_holds(path, tensors=TENSORS, raw=RAW):
    model, tokenizer = jaxdepth.load(path)
    assert tokenizer is None
    for name, array in leaves_of(ModelConfig.from_hf(raw), tensors).items():
        module = model.layers if name.startswith("layers.") else model
        parameter = getattr(module, name.removeprefix("layers."))[...]
        assert np.array_equal(np.asarray(parameter), array), name
