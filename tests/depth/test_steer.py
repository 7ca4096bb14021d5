"""Steering: the changed stream by a plain layer loop, one program for all, and as a sweep."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_grid import families
from slow_decode import slow_twin, spoken
from studies import settings_of
from tiny import model_of, prompts

import jaxdepth
from jaxdepth import InputError, exit_logits
from jaxdepth.cli import main
from jaxdepth.depth import decode as engine
from jaxdepth.depth.exits import _exit_logits
from jaxdepth.model.steer import steer
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.probing.direction import (
    Directions,
    directions_digest,
    find_direction,
    mean_difference,
    parse_direction,
    read_directions,
    save_directions,
)
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.subject import open_subject
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.tune.loss import Targets, row_hidden
from jaxdepth.weights.adapter import Adapter, adapter_digest, save_adapter
from jaxdepth.weights.checkpoint import read_manifest

pytestmark = pytest.mark.usefixtures("quick_programs")

EVERY = (1, 2, 3, 4)
at_exits = jax.vmap(exit_logits, in_axes=(None, None, None, 0))
one_layer = jax.jit(lambda block, h, *inputs: block(h, *inputs)[0])
DIRECTION = np.random.default_rng(5).standard_normal(64) * 0.3


@pytest.fixture(scope="module")
def model():
    return model_of(families()["qwen2.5-window"])


def logits_of(model) -> np.ndarray:
    return np.asarray(at_exits(model, *prompts(), jnp.array(EVERY)))


def slow_streams(model, direction, layers, how, scale) -> list[np.ndarray]:
    """The stream after every layer, changed by numpy between one layer and the next."""
    unit = direction / np.sqrt((direction**2).sum())
    tokens_BS, _ = prompts()
    h = model.embed_tokens(jnp.asarray(tokens_BS))
    actual = []
    for number in EVERY:
        block = jax.tree.map(lambda leaf, n=number: leaf[n - 1], model.blocks())
        h = np.asarray(one_layer(block, h, *model.position_inputs(tokens_BS.shape[1])))
        if number in layers and how != "add":
            along = np.einsum("bsd,d->bs", h.astype(np.float64), unit)
            change = {"ablate": -scale * along, "set": scale - along}[how]
            h = h + change[..., None] * unit
        elif number in layers:
            h = h + scale * direction
        h = h.astype(np.float32)
        actual.append(h)
    return actual


@pytest.mark.parametrize("layers", [(2,), (1, 3), EVERY], ids=["one", "some", "all"])
@pytest.mark.parametrize(
    ("how", "scale"), [("ablate", 1.0), ("ablate", 0.5), ("add", -1.5), ("set", 2.0)]
)
def test_every_exit_by_a_slow_twin(model, how, scale, layers):
    streams = slow_streams(model, DIRECTION, layers, how, scale)
    rows = np.arange(3), prompts()[1] - 1
    last = enumerate((jnp.asarray(h[rows]) for h in streams), start=1)
    expected = np.stack([np.asarray(model.unembed(h, exit)) for exit, h in last])
    actual = logits_of(steer(model, DIRECTION, layers, how, scale))
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    plain = logits_of(model)
    below = layers[0] - 1  # an exit sees the change after its own layer, and of those below
    np.testing.assert_allclose(actual[:below], plain[:below], atol=2e-6)
    assert (np.abs(actual - plain)[below:].max(axis=(1, 2)) > 0.01).all()


@pytest.mark.parametrize("how", ["ablate", "add"])
def test_nothing_at_scale_0_or_at_no_layer(model, how):
    for same in (steer(model, DIRECTION, EVERY, how, 0.0), steer(model, DIRECTION, (), how)):
        np.testing.assert_allclose(logits_of(same), logits_of(model), atol=1e-6)


def test_what_is_ablated_is_gone(model):
    """Every position, by the pass that tuning reads; a bfloat16 stream keeps its own dtype."""
    tokens_BS, _ = prompts()
    places = np.arange(tokens_BS.shape[1])
    targets = Targets(jnp.asarray(tokens_BS[:1]), places * 0, places, places * 0)
    unit = DIRECTION / np.linalg.norm(DIRECTION)
    before = np.asarray(row_hidden(model, targets)) @ unit
    after = np.asarray(row_hidden(steer(model, DIRECTION, (2, 4), "ablate"), targets)) @ unit
    np.testing.assert_allclose(after[[1, 3]], 0, atol=2e-6)
    assert np.abs(before[[1, 3]]).max() > 0.3
    np.testing.assert_allclose(after[0], before[0], atol=2e-6)
    assert np.abs(after[2]).max() > 0.05  # layer 3 writes along it again
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), model)
    h = row_hidden(steer(half, DIRECTION, EVERY, "ablate"), targets)
    assert h.dtype == jnp.bfloat16
    assert np.abs(np.asarray(h, np.float32) @ unit).max() < 0.02


@pytest.mark.parametrize("how", ["ablate", "add"])
def test_generation_by_a_slow_twin(model, how):
    steered = steer(model, DIRECTION, (2, 3), how, 2.0)
    tokens, lengths = prompts()
    actual = jaxdepth.generate(steered, tokens, lengths, EVERY, 12)
    for b, e in np.ndindex(3, 4):
        assert spoken(actual, b, e) == slow_twin(steered, tokens[b], lengths[b], e + 1, 12)
    plain = jaxdepth.generate(model, tokens, lengths, EVERY, 12).tokens
    assert np.array_equal(actual.tokens[:, 0], plain[:, 0])
    assert not np.array_equal(actual.tokens[:, 1:], plain[:, 1:])


def test_one_program_serves_every_steering(model):
    def run(steered):
        exit_logits(steered, *prompts(), 4)
        jaxdepth.generate(steered, *prompts(), [4, 2], 3)

    def programs():
        return _exit_logits._cache_size(), engine.prefill._cache_size(), engine.decode._cache_size()

    run(steer(model, DIRECTION, (1,), "ablate"))
    before = programs()
    for layers, how, scale in (((), "add", 1.0), ((2, 4), "ablate", 0.3), (EVERY, "add", -3)):
        run(steer(model, DIRECTION[::-1] * 7, layers, how, scale))
        run(steer(steer(model, DIRECTION, (1,), "add"), DIRECTION, layers, how, scale))
    assert programs() == before


def test_the_model_itself_stays_as_it_is(model):
    structure = jax.tree.structure(model)
    steered = steer(model, DIRECTION, EVERY, "add")
    assert jax.tree.structure(model) == structure
    base_ids, its = (set(map(id, jax.tree.leaves(m))) for m in (model, steered))
    assert base_ids < its  # the same arrays
    assert len(its) == len(base_ids) + 3
    programs = [
        _exit_logits.lower(m, *prompts(), 4).as_text(debug_info=True) for m in (model, steered)
    ]
    assert [bool(re.search('[/"]steer/', text)) for text in programs] == [False, True]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"direction_D": np.ones(63)}, r"shape \(63,\), expected \(64,\)"),
        ({"direction_D": np.zeros(64)}, "zero or not finite"),
        ({"direction_D": np.full(64, np.nan)}, "zero or not finite"),
        ({"layers": (1, 5)}, "layer 5 is out of range: this model has layers 1 to 4"),
        ({"layers": (0,)}, "layer 0 is out of range"),
        ({"scale": np.inf}, "scale of steering is inf"),
    ],
    ids=str,
)
def test_bad_steering(model, changes, says):
    good = {"direction_D": DIRECTION, "layers": (1,), "how": "ablate"}
    with pytest.raises(InputError, match=says):
        steer(model, **good | changes)


# Directions and their files


def test_mean_difference_by_hand():
    x_GND = np.array([[[1, 2], [3, 4], [8, 0]], [[0, 1], [0, 3], [5, 5]]], np.float16)
    actual = mean_difference(x_GND, np.array([0, 0, 1]))
    np.testing.assert_array_equal(actual, [[6, -3], [5, 3]])
    assert actual.dtype == np.float64
    many = np.full((1, 3000, 1), 1.001, np.float16)  # a float16 sum stops growing at 2048
    many[:, ::2] = 0
    actual = mean_difference(many, np.arange(3000) % 2)
    np.testing.assert_allclose(actual, np.float64(np.float16(1.001)), rtol=1e-12)
    with pytest.raises(InputError, match="3 examples of one class"):
        mean_difference(x_GND, np.ones(3))


def test_names_of_directions():
    assert parse_direction("content.instruction@15") == ("content.instruction", 15)
    assert parse_direction("a@b@0") == ("a@b", 0)
    for text in ("content.instruction", "@3", "content@", "content@x", "content@-1"):
        with pytest.raises(InputError, match="expected NAME@LAYER"):
            parse_direction(text)


@pytest.fixture(scope="module")
def directions(tiny_path) -> Directions:
    rng = np.random.default_rng(0)
    arrays = {f"content.{p}": rng.standard_normal((5, 64)) for p in ("instruction", "last")}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    made = {"prompts_sha256": "a" * 64, "counts": [3, 4]}
    return Directions(arrays, read_manifest(tiny_path)["fingerprint"], None, made)


@pytest.fixture
def file(directions, tmp_path):
    save_directions(tmp_path / "directions.safetensors", directions)
    return tmp_path / "directions.safetensors"


def test_a_file_holds_directions(directions, file, tmp_path):
    actual = read_directions(file)
    assert replace(actual, arrays={}) == replace(directions, arrays={})
    for name, array in directions.arrays.items():
        np.testing.assert_array_equal(actual.arrays[name], array)
        np.testing.assert_array_equal(find_direction(file, f"{name}@4", actual.base), array[4])
    save_directions(tmp_path / "again", actual)
    assert directions_digest(tmp_path / "again") == directions_digest(file)


# Through the command line


def sweep_args(tiny_path, out, file, **changes) -> list[str]:
    settings = {"out": out, "limit": 1, "max-new-tokens": 0, "steer": "ablate"}
    settings |= {"directions": file, "direction": "content.instruction@2"} | changes
    options = [x for k, v in settings.items() if v is not None for x in (f"--{k}", str(v))]
    return ["sweep", str(tiny_path), *options]


def test_a_steered_sweep(tiny_path, directions, file, tmp_path, capsys):
    out, moved = tmp_path / "run", file.with_name("moved")
    assert main(sweep_args(tiny_path, out, file)) == 0
    record = json.loads((out / "run.json").read_text())
    decided = record["settings"]
    assert decided["directions_sha256"] == directions_digest(file)
    assert (decided["steer"], decided["direction"]) == ("ablate", "content.instruction@2")
    assert str(file) not in json.dumps(decided)
    assert record["facts"]["directions_adapter_sha256"] is None
    file.rename(moved)
    capsys.readouterr()
    save_directions(file, replace(directions, made={}))
    for changes, says in (
        ({"direction": "content.last@2", "directions": moved}, "direction = "),
        ({"steer": "add", "directions": moved}, "steer = "),
        ({}, "directions_sha256 = "),
    ):
        assert main(sweep_args(tiny_path, out, file, **changes)) == 2
        assert f"holds a run with {says}" in capsys.readouterr().err
    settings = steered_settings(tiny_path, out, moved, limit=1, max_new_tokens=0)
    assert sweep(settings).finished("first_token")  # it goes on, wherever the file lies


def steered_settings(tiny_path, out, file, **changes) -> Sweep:
    chosen = {"steer": "ablate", "directions": file, "direction": "content.instruction@2"}
    return settings_of(Sweep, tiny_path, out, **chosen | changes)


def test_a_subject_is_steered_as_its_settings_say(tiny_path, directions, file):
    model, _ = jaxdepth.load(tiny_path)
    direction = directions.arrays["content.instruction"][2]
    changes = {"steer": "add", "steer_layers": "2-3", "steer_scale": 2.0, "limit": 2}
    subject = open_subject(steered_settings(tiny_path, "out", file, **changes))
    expected = logits_of(steer(model, direction, (2, 3), "add", 2.0))
    np.testing.assert_array_equal(logits_of(subject.model), expected)
    np.testing.assert_array_equal(logits_of(subject.loaded.model), logits_of(model))


def test_the_unsteered_model_judges_coherence(tiny_path, file, tmp_path):
    """As in a run that names the checkpoint itself as its reference."""
    actual = []
    for name, reference in (("own", None), ("named", tiny_path)):
        changes = {"reference": reference, "limit": 1, "max_new_tokens": 12, "exits": "2,4"}
        settings = steered_settings(tiny_path, tmp_path / name, file, **changes)
        actual.append(read_table(sweep(settings).path, "generations"))
    assert any(x is not None for x in actual[0]["mean_logprob_reference"].to_pylist())
    assert actual[0] == actual[1]


def test_bad_directions(tiny_path, directions, file, tmp_path, capsys):
    other, damaged, adapter = (tmp_path / name for name in ("other", "damaged", "adapter"))
    save_directions(other, replace(directions, base="f" * 64))
    damaged.write_bytes(file.read_bytes()[:-9])
    uneven = tmp_path / "uneven"
    arrays = {"a": np.ones((5, 64)), "b": np.ones((4, 64))}
    save_directions(uneven, replace(directions, arrays=arrays))
    from safetensors.numpy import save_file

    save_file({"a": np.ones(1)}, adapter)
    meta = {"jaxdepth": json.dumps({"format": "jaxdepth-adapter-1"})}
    save_file({"a": np.ones(1)}, tmp_path / "format", metadata=meta)
    save_file({"a": np.ones(1)}, tmp_path / "header", metadata={"jaxdepth": "[1"})
    wide = replace(directions, arrays={"content.instruction": np.ones((5, 8))})
    save_directions(tmp_path / "wide", wide)
    cases = [
        ({"directions": other}, "made for the base ffffffffffff, this checkpoint is"),
        ({"directions": damaged}, "damaged or incomplete"),
        ({"directions": uneven}, "not all of one shape"),
        ({"directions": adapter}, "not a directions file of jaxdepth"),
        ({"directions": tmp_path / "format"}, "has the format 'jaxdepth-adapter-1', expected"),
        ({"directions": tmp_path / "header"}, "header is damaged"),
        ({"directions": tmp_path / "wide"}, "of shape (8,), expected (64,)"),
        ({"directions": tmp_path / "none"}, "no directions file"),
        ({"direction": "content.instructions@2"}, "did you mean 'content.instruction'?"),
        ({"direction": "content.last@5"}, "layer 5 is out of range: there are directions of la"),
        ({"direction": "content.last"}, "expected NAME@LAYER"),
        ({"direction": None}, "--steer ablate needs --direction"),
        ({"directions": None}, "--steer ablate needs --directions"),
        ({"steer": "none"}, "directions is set, but nothing is steered"),
        ({"steer-layers": "3-5"}, "layer 5 is out of range: this model has layers 1 to 4"),
        ({"steer-layers": "x"}, "layers 'x': 'x' is no number or range"),
        ({"steer-scale": "nan"}, "steer_scale is nan"),
    ]
    for changes, says in cases:
        assert main(sweep_args(tiny_path, tmp_path / "run", file, **changes)) == 2, changes
        lines = capsys.readouterr().err.splitlines()
        lines = [line for line in lines if line.startswith("jaxdepth: error: ")]
        assert len(lines) == 1
        assert says in lines[0]
    only = ["sweep", str(tiny_path), "--out", str(tmp_path / "run"), "--steer-scale", "2"]
    assert main(only) == 2
    assert "steer_scale is set, but nothing is steered" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tuned_model_takes_a_direction_of_its_base(tiny_path, directions, file, tmp_path):
    base, _ = jaxdepth.load(tiny_path)
    form = Form((0,), rank=1)
    params = init_params(base, form, 0, jax.random.key(0))
    save_adapter(tmp_path / "a.safetensors", Adapter(form, params, directions.base, (), {}))
    save_directions(file, replace(directions, adapter="b" * 64))
    adapter = str(tmp_path / "a.safetensors")
    changes = {"adapter": adapter, "limit": 1, "max_new_tokens": 0}
    record = sweep(steered_settings(tiny_path, tmp_path / "run", file, **changes)).record
    assert record["facts"]["directions_adapter_sha256"] == "b" * 64
    assert record["settings"]["adapter_sha256"] == adapter_digest(adapter)
