"""NaN and infinity at run time: lanes and rows say so, and the others are as they would be."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import prompts, raw_config

from jaxdepth.depth.generation import generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import Batch
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.answers import warn_non_finite
from jaxdepth.study.common_tables import FIRST_TOKEN, GENERATIONS, NON_FINITE
from jaxdepth.study.first_token import first_rows
from jaxdepth.study.run_directory import Run
from jaxdepth.study.sweep.tables import CURVE

pytestmark = pytest.mark.usefixtures("quick_programs")
RAW = raw_config(num_hidden_layers=3)
TOKENS, LENGTHS = (array[:, :8] if array.ndim == 2 else np.minimum(array, 8) for array in prompts())


class Tokenizer:
    def convert_ids_to_tokens(self, ids):
        return [f"t{number}" for number in ids]

    def decode(self, ids):
        return "".join(self.convert_ids_to_tokens(ids))


def model_with(value):
    """A model whose last layer overflows, as in float16; 0 is the model as it is."""
    config = ModelConfig.from_hf(RAW)
    arrays = tiny.leaves_of(config, tiny.hf_tensors(config))
    arrays["layers.o"] = arrays["layers.o"].copy()
    if value:
        arrays["layers.o"][2] = value
    return Mistral(config, {name: jnp.asarray(array) for name, array in arrays.items()})


@pytest.fixture(scope="module")
def broken():
    return model_with(np.inf)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, top_k=5, top_p=0.9)])
def test_lanes_say_so_and_end(broken, sampling):
    request = {"exits": (1, 3), "max_new_tokens": 4, "sampling": sampling, "samples": 1}
    whole = generate(model_with(0), TOKENS, LENGTHS, **request)
    generation = generate(broken, TOKENS, LENGTHS, **request)
    assert whole.finite.all()
    assert generation.finite[:, 0].all()
    assert not generation.finite[:, 1].any()
    assert (generation.lengths[:, 1] == 1).all()
    np.testing.assert_array_equal(generation.tokens[:, 0], whole.tokens[:, 0])


def test_rows_are_null_and_counted(broken, tmp_path, capsys):
    batch = Batch((0, 1, 2), TOKENS, LENGTHS)
    asked = [Prompt(f"p{n}", "?", "harmful", None, None, "set") for n in range(3)]
    (table,) = first_rows(broken, Tokenizer(), batch, asked, [1, 3], [5])()
    for row in table.to_pylist():
        own = [row[name] for name in ("refusal_log_odds", "top_token", "top_prob", "entropy")]
        assert (row["exit"] == 3) == (None in own) == all(value is None for value in own)
        assert row["kl_to_full"] is None  # full depth is broken
        assert row["agrees_with_full"] is None
    run = Run.open(tmp_path / "run", {}, {})
    run.write_table(FIRST_TOKEN.name, table)
    lane = {"exit": 3, "sample": 0}
    ended = ["eos", NON_FINITE, NON_FINITE]
    answers = [lane | {"prompt_id": f"p{n}", "ended": e} for n, e in enumerate(ended)]
    run.write_table(GENERATIONS.name, GENERATIONS.from_rows(answers))
    warn_non_finite(run, FIRST_TOKEN, GENERATIONS, CURVE)
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 of 6 rows of first_token, 2 of 3 rows of generations have null" in line


def test_finite_rows_have_no_nulls():
    batch = Batch((0, 1, 2), TOKENS, LENGTHS)
    asked = [Prompt(f"p{n}", "?", "harmful", None, None, "set") for n in range(3)]
    (table,) = first_rows(model_with(0), Tokenizer(), batch, asked, [1, 3], [5])()
    assert not any(column.null_count for column in table.columns)
