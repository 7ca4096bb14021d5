"""Exit classifiers: examples by plain code, fits by scikit-learn, and their file."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_probe_fit import activations, sklearn_decisions
from tiny import VOCAB, model_of, prompts, raw_config

from jaxdepth import InputError, exit_logits
from jaxdepth.depth.policies import ExitClassifier
from jaxdepth.probing.exit_classifier import (
    agreement_examples,
    fit_exit_classifier,
    read_exit_classifier,
    save_exit_classifier,
)

pytestmark = pytest.mark.usefixtures("quick_programs")

BEGINS = np.array([60, 17, 1])  # of sequences of 64, 37 and 5
at_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))


@pytest.fixture(scope="module")
def model():
    return model_of(raw_config(), seed=3)


def test_examples_are_those_of_plain_code(model):
    tokens_BS, lengths_B = prompts()
    x_LND, agrees_LN = agreement_examples(model, tokens_BS, lengths_B, BEGINS)
    assert x_LND.shape == (4, 4 + 20 + 4, 64)
    # One position at a time, as a prompt that ends there; the token after it is the answer's.
    logits_NEV = np.stack(
        [
            at_exits(model, tokens_BS[b : b + 1], np.array([last + 1]), jnp.arange(1, 5))[:, 0]
            for b in range(3)
            for last in range(lengths_B[b])
            if BEGINS[b] <= last + 1 < lengths_B[b]
        ]
    )
    top_NE = logits_NEV.argmax(axis=2)
    assert np.array_equal(agrees_LN, (top_NE == top_NE[:, 3:]).T)
    assert agrees_LN[-1].all()
    shares_L = agrees_LN[:3].mean(axis=1)
    assert ((shares_L > 0) & (shares_L < 1)).all()
    found_LNV = np.asarray(model.unembed(jnp.asarray(x_LND), np.arange(1, len(x_LND) + 1)))
    np.testing.assert_allclose(found_LNV, logits_NEV.swapaxes(0, 1), atol=1e-4)


def test_examples_do_not_see_padding_and_keep_the_dtype(model):
    tokens_BS, lengths_B = prompts()
    other_BS = np.where(np.arange(64) < lengths_B[:, None], tokens_BS, VOCAB - 1)
    first, second = (
        agreement_examples(model, ids, lengths_B, BEGINS) for ids in (tokens_BS, other_BS)
    )
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    assert agreement_examples(half, tokens_BS, lengths_B, BEGINS).x_LND.dtype == jnp.bfloat16


@pytest.mark.parametrize("begins", [[0, 17, 1], [60, 17, 5], [60, 17]])
def test_every_sequence_has_a_prompt_and_an_answer(model, begins):
    with pytest.raises(InputError, match=r"answers begin at .* lengths \[64, 37, 5\]"):
        agreement_examples(model, *prompts(), np.array(begins))


@pytest.fixture(scope="module")
def examples():
    """Streams after 7 layers; at three exits all, none and one of the examples agree."""
    x_GND, y_N = activations(90, 30)
    rng = np.random.default_rng(2)
    agrees = [y_N == 1, y_N == 0, rng.random(90) < 0.2, y_N == 1, y_N < 2, y_N > 2, y_N < 2]
    agrees[3] = np.arange(90) == 5
    return np.concatenate([x_GND, x_GND[:1]]), np.stack(agrees)


def test_classifiers_are_those_of_scikit_learn(examples):
    x_LND, agrees_LN = examples
    for strength, given in ((1e-2, ()), (1.0, (1.0,))):
        weights_LD, bias_L = fit_exit_classifier(x_LND, agrees_LN, *given)
        for row in range(4):
            found_N = x_LND[row].astype(np.float64) @ weights_LD[row] + bias_L[row]
            every_N = np.ones(90, bool)
            wanted_N = sklearn_decisions(x_LND[row], agrees_LN[row], every_N, strength)
            np.testing.assert_allclose(found_N, wanted_N, atol=1e-3)


def test_exits_with_nothing_to_learn(examples):
    weights_LD, bias_L = fit_exit_classifier(*examples)
    assert not weights_LD[4:].any()
    assert bias_L[4] == pytest.approx(math.log(90.5 / 0.5))  # odds of the rate 90.5 / 91
    assert bias_L[5] == pytest.approx(math.log(0.5 / 90.5))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        sure = jax.nn.sigmoid(jnp.asarray(bias_L, dtype))
        assert sure[6] == 1
        assert sure[5] < 0.01


def test_bad_examples_are_told_in_one_line(examples):
    x_LND, agrees_LN = examples
    cases = [
        (x_LND[0], agrees_LN, {}, r"expected \(L, N, D\) and \(L, N\)"),
        (x_LND, agrees_LN[:, :5], {}, r"with agreement of shape \(7, 5\)"),
        (x_LND[:, :0], agrees_LN[:, :0], {}, "none of them 0"),
        (x_LND[:3], agrees_LN[:3], {}, "the last exit disagrees with itself"),
        (x_LND * np.inf, agrees_LN, {}, "not finite"),
        (x_LND, agrees_LN, {"strength": 0.0}, "numbers above 0"),
    ]
    for x, agrees, changes, says in cases:
        with np.errstate(invalid="ignore"), pytest.raises(InputError, match=says) as raised:
            fit_exit_classifier(x, agrees, **changes)
        assert "\n" not in str(raised.value)


def test_a_file_holds_a_classifier(tmp_path):
    rng = np.random.default_rng(0)
    made = ExitClassifier(rng.standard_normal((4, 8)), jnp.asarray(rng.standard_normal(4)))
    for name in ("first", "second"):
        save_exit_classifier(tmp_path / name, made, "a" * 64)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    actual = read_exit_classifier(tmp_path / "first", "a" * 64)
    for one, other in zip(actual, made, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, np.asarray(other, np.float32))


def test_bad_files_are_told_in_one_line(tmp_path):
    from safetensors.numpy import save_file

    weights, bias = np.ones((4, 8), np.float32), np.ones(4, np.float32)
    right = {"format": "jaxdepth-exit-classifier-1", "base": "a" * 64}

    def write(name, meta=right, **arrays):
        header = None if meta is None else {"jaxdepth": json.dumps(meta)}
        save_file({"weights": weights, "bias": bias} | arrays, tmp_path / name, metadata=header)

    write("plain", None)
    write("format", right | {"format": "jaxdepth-directions-1"})
    write("header", {"format": right["format"]})
    write("list", [1])
    write("other", right | {"base": "f" * 64})
    write("more", extra=bias)
    write("short", bias=bias[:3])
    write("flat", weights=bias)
    save_file({"bias": bias}, tmp_path / "fewer", metadata={"jaxdepth": json.dumps(right)})
    write("right")
    (tmp_path / "cut").write_bytes((tmp_path / "right").read_bytes()[:-9])
    (tmp_path / "broken").write_bytes((tmp_path / "right").read_bytes().replace(b'{\\"', b'[\\"'))
    cases = {
        "none": "no exit classifier",
        "plain": "is not an exit classifier of jaxdepth",
        "format": "has the format 'jaxdepth-directions-1', expected jaxdepth-exit-classifier-1",
        "header": "header is damaged",
        "list": "header is damaged",
        "broken": "header is damaged",
        "other": "was made for the base ffffffffffff, this checkpoint is aaaaaaaaaaaa",
        "more": "are not .L, D. weights and .L,. bias",
        "short": "are not .L, D. weights",
        "flat": "are not .L, D. weights",
        "fewer": "are not .L, D. weights",
        "cut": "damaged or incomplete",
    }
    for name, says in cases.items():
        with pytest.raises(InputError, match=says) as raised:
            read_exit_classifier(tmp_path / name, "a" * 64)
        assert "\n" not in str(raised.value)
    assert read_exit_classifier(tmp_path / "right", "a" * 64).bias_L.shape == (4,)
