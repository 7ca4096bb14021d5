"""A lens: by its formula, in every loop that unembeds, and as an adapter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import families
from studies import settings_of
from tiny import model_of, shaken

import jaxdepth
from jaxdepth import InputError
from jaxdepth.depth.dynamic import generate_dynamic
from jaxdepth.depth.exits import exit_hidden
from jaxdepth.depth.generation import generate
from jaxdepth.depth.policies import ExitRule, Policy
from jaxdepth.depth.speculative import speculate
from jaxdepth.model.lens import Lens
from jaxdepth.model.tuned import LENS, Form, init_params, merge
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.tuning.run import tune
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.weights.export import export

pytestmark = pytest.mark.usefixtures("one_length", "quick_programs")
EXITS, DEPTH = (1, 3), 4
FORM = Form((), (), None, lens_exits=EXITS, lens_rank=2)


@pytest.fixture(scope="module")
def model():
    return model_of(families()["mistral-7b-v0.1"])


@pytest.fixture(scope="module")
def params(model):
    return shaken(init_params(model, FORM, 0, jax.random.key(0)), 0.3)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(2).integers(0, 60, (3, 7)), np.array([7, 5, 3])


def by_formula(model, params, h_BD: np.ndarray, exit: int) -> np.ndarray:
    if exit in EXITS:
        norm, a, b, bias = (np.asarray(params[name][EXITS.index(exit)], float) for name in LENS)
        rms = np.sqrt((h_BD**2).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps)
        z_BD = h_BD / rms * norm
        h_BD = z_BD + z_BD @ a @ b + bias
    rms = np.sqrt((h_BD**2).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps)
    head = model.embed if model.head is None else model.head
    return (h_BD / rms * np.asarray(model.norm[...])) @ np.asarray(head[...]).T


def test_by_its_formula_at_every_exit(model, params, tokens):
    read = merge(model, params, FORM)
    for exit in range(1, DEPTH + 1):
        h_BD = exit_hidden(model, jnp.asarray(tokens[0]), jnp.asarray(tokens[1]), jnp.int32(exit))
        expected = by_formula(model, params, np.asarray(h_BD, float), exit)
        actual = jaxdepth.exit_logits(read, *tokens, exit)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
        same = np.allclose(actual, jaxdepth.exit_logits(model, *tokens, exit), atol=1e-6)
        assert same == (exit not in EXITS)


def test_exits_may_lie_along_several_axes(model, params):
    lens = Lens(params, EXITS, DEPTH)
    h = jax.random.normal(jax.random.key(3), (2, 3, 5, model.config.hidden_size))
    exits = jnp.array([[1, 2, 3], [4, 3, 1]])
    together = lens(h, exits, 1e-5)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(together[i, j], lens(h[i, j], exits[i, j], 1e-5), atol=1e-5)


def test_an_untrained_lens_changes_nothing(model, tokens):
    begun = merge(model, init_params(model, FORM, 0, jax.random.key(0)), FORM)
    for exit in range(1, DEPTH + 1):
        np.testing.assert_allclose(
            jaxdepth.exit_logits(begun, *tokens, exit),
            jaxdepth.exit_logits(model, *tokens, exit),
            atol=1e-4,
        )


def test_every_way_to_decode_reads_through_it(model, params, tokens):
    """Greedy tokens of decoding, of exit policies and of drafting equal those of whole passes."""
    read = merge(model, params, FORM)
    exits, new = [1, 3, 4], 5
    lengths_B = np.full(2, 4)
    tokens_BS = tokens[0][:2, :4]
    decoded = generate(read, tokens_BS, lengths_B, exits, new)
    rules = [ExitRule(Policy.FIXED, exit) for exit in exits]
    dynamic = generate_dynamic(read, tokens_BS, lengths_B, rules, exits, new)
    for e, exit in enumerate(exits):
        text = tokens_BS
        for _ in range(new):
            logits = jaxdepth.exit_logits(read, text, np.full(2, text.shape[1]), exit)
            text = np.concatenate([text, np.asarray(logits).argmax(-1)[:, None]], axis=1)
        np.testing.assert_array_equal(np.asarray(decoded.tokens)[:, e].reshape(2, -1), text[:, 4:])
        np.testing.assert_array_equal(np.asarray(dynamic.tokens)[:, e].reshape(2, -1), text[:, 4:])
    drafted = speculate(read, tokens_BS, lengths_B, [3], new)
    whole = np.asarray(decoded.tokens)[:, 2].reshape(2, -1)
    np.testing.assert_array_equal(np.asarray(drafted.tokens)[:, 0].reshape(2, -1), whole)


def test_trained_loaded_and_not_exported(tiny_path, tmp_path):
    settings = settings_of(
        Tune, tiny_path, tmp_path / "run", train="lens", rank=3, steps=30, save_every=15, harmful=0,
        lookalike=0, benign=3, answer_tokens=8, warmup=1, exits_per_step=0, rows_per_exit=9,
        learning_rate=5e-2,
    )  # fmt: skip
    run = tune(settings)
    losses = read_table(run.path, "loss").to_pydict()
    assert not any(losses["full"])
    assert not any(losses["early"])
    assert np.mean(losses["distill"][-8:]) < 0.93 * np.mean(losses["distill"][:8])
    file = str(run.path / "adapter.safetensors")
    model, tokenizer = jaxdepth.load(tiny_path, adapter=file)
    base, _ = jaxdepth.load(tiny_path)
    ids = np.array([tokenizer("How do I bake bread?")["input_ids"]])
    length = np.array([ids.shape[1]])
    ours, theirs = (
        np.stack([jaxdepth.exit_logits(m, ids, length, exit) for exit in (1, 2, 3, 4)])
        for m in (model, base)
    )
    np.testing.assert_array_equal(ours[3], theirs[3])
    assert (np.abs(ours - theirs)[:3].max(axis=(1, 2)) > 0.01).all()
    with pytest.raises(InputError, match="is a lens"):
        export(tiny_path, tmp_path / "hf", adapter=file)
