"""Probes that guard exits: calibrated on a planted truth, read on the device, kept in a file."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdepth import InputError
from jaxdepth.depth.guard import Guards, read_guards
from jaxdepth.probing.folds import make_folds
from jaxdepth.probing.harm_probe import (
    HarmProbes,
    fit_harm_probe,
    read_harm_probes,
    save_harm_probes,
    text_digest,
)

N, D = 400, 6


@pytest.fixture(scope="module")
def planted():
    """Streams of two layers, of which only the second knows; one feature is huge and constant."""
    rng = np.random.default_rng(0)
    harmful_N = rng.random(N) < 0.5
    x_JND = rng.standard_normal((2, N, D))
    x_JND[1, :, 0] += np.where(harmful_N, 1.0, -1.0)  # log-odds are twice the feature
    x_JND[:, :, 1] = 3e4 + 1e-3 * x_JND[:, :, 1]
    fold_N = make_folds(range(N), harmful_N, 5)
    return x_JND, harmful_N, fit_harm_probe(x_JND, harmful_N, fold_N, (1e-4, 1e-3))


def harm_of(probe, layer, x_ND):
    weights_D, centre_D, bias = (np.float64(a[layer]) for a in probe)
    return 1 / (1 + np.exp(-((x_ND - centre_D) @ weights_D + bias)))


def test_probabilities_are_calibrated_whatever_the_regularisation(planted):
    """At such strengths a probe alone would call everything about as likely as not."""
    x_JND, _, probe = planted
    p_N, truth_N = harm_of(probe, 1, x_JND[1]), 1 / (1 + np.exp(-2 * x_JND[1, :, 0]))
    assert np.abs(p_N - truth_N).mean() < 0.1
    assert p_N.min() < 0.03
    assert p_N.max() > 0.97
    assert np.abs(harm_of(probe, 0, x_JND[0]) - 0.5).max() < 0.35  # it knows nothing there


def test_it_is_read_on_the_device_as_in_float64(planted):
    x_JND, _, probe = planted
    of_lane = [np.asarray(a[1])[None] for a in probe]
    guards = Guards(*of_lane, np.array([1]), np.array([1]), np.asarray(False))
    h_1ND = jnp.asarray(x_JND[1][None], jnp.float32)
    ones_1N = jnp.ones((1, N))
    calm_1N = read_guards(guards, jnp.int32(1), jnp.asarray(True), h_1ND, ones_1N)
    expected_N = 1 - harm_of(probe, 1, np.float64(np.float32(x_JND[1])))
    np.testing.assert_allclose(calm_1N[0], expected_N, atol=1e-5)
    for layer, is_first in ((2, True), (1, False)):
        unread = read_guards(guards, jnp.int32(layer), jnp.asarray(is_first), h_1ND, ones_1N)
        assert (np.asarray(unread) == 1).all()
    along = guards._replace(reads_answer=np.asarray(True))
    again = read_guards(along, jnp.int32(1), jnp.asarray(False), h_1ND, ones_1N * 0.25)
    np.testing.assert_allclose(again[0], np.minimum(expected_N, 0.25), atol=1e-5)


def test_a_file_of_probes(planted, tmp_path):
    probe, file = planted[2], tmp_path / "probes.safetensors"
    save_harm_probes(file, HarmProbes({"content": probe}, "base", frozenset({text_digest("hi")})))
    read = read_harm_probes(file, "base")
    for own, saved in zip(read.probes["content"], probe, strict=True):
        np.testing.assert_array_equal(own, saved)
    read.check_unseen(["ho"], file)
    with pytest.raises(InputError, match="was fitted to 1 of these prompts"):
        read.check_unseen(["ho", "hi"], file)
    with pytest.raises(InputError, match="was made for the model base, or with another adapter"):
        read_harm_probes(file, "other")
    with pytest.raises(InputError, match="no file of probes"):
        read_harm_probes(tmp_path / "none", "base")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="damaged"):
        read_harm_probes(file, "base")
