"""Expressions of a stranger's adapter_config.json that no limit of time reaches."""

import json

import pytest

from jaxdepth import InputError
from jaxdepth.weights.huggingface.peft_config import read_peft_config

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4}
MODULE = "model.layers.0.self_attn.q_proj"


def config_of(folder, **fields):
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | fields))
    return read_peft_config(folder)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("((((x{99}){99}){99}){99}){99}", r"repeats parts up to 9\.51e\+09 times"),
        ("(x{1,60000}){1,60000}", "repeats parts up to"),
        ("x{" + "9" * 300 + "}", "repeats parts up to"),
        ("a|" * 50_000, "characters, expected at most 2,000"),
        ("(?R)", "calls itself or one of its groups"),
        ("(" * 900 + ")" * 900, "is no regular expression"),
    ],
    ids=["nested", "ranges", "huge", "long", "recursive", "deep"],
)
def test_what_would_fill_the_memory_is_refused(tmp_path, pattern, problem):
    """Each ended the process, took half a minute or more, or ended in a traceback."""
    for field in ("target_modules", "exclude_modules", "rank_pattern"):
        value = {pattern: 3} if field == "rank_pattern" else pattern
        config = config_of(tmp_path, **{field: value})
        use = config.rank_of if field == "rank_pattern" else config.targets
        with pytest.raises(InputError, match=problem):
            use(MODULE)


def test_expressions_that_people_write_are_read(tmp_path):
    config = config_of(tmp_path, target_modules=r".*\.layers\.\d{1,2}\..*(q|v)_proj")
    assert config.targets(MODULE)
    assert not config.targets("model.layers.0.mlp.up_proj")
