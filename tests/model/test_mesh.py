"""Meshes: rules, their errors, and that no table depends on devices or processes.

The suite has one mesh of each kind; `make test-slow` has all commands on all of them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pod
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from parity_grid import families
from studies import settings_of
from tiny import hf_tensors, raw_config, write_folder
from tiny_tokenizers import build

from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import PARAMETERS
from jaxdepth.model.sharding import (
    activation_sharding,
    make_mesh,
    parameter_spec,
    parse_mesh,
    whole_rows,
)
from jaxdepth.prompts.batches import make_batches
from jaxdepth.runtime import distributed, profiling
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.weights import checkpoint
from jaxdepth.weights.convert import convert

MESHES = ("data=8", "model=4", "data=4,model=2", "data=2,fsdp=2,model=2")


def abstract(**sizes):
    full = {"data": 1, "fsdp": 1, "model": 1} | sizes
    return AbstractMesh(tuple(full.values()), tuple(full))


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    """A tiny model whose every axis 2 and 4 divide, but for its two key/value heads.

    It has biases and two kinds of layers.
    """
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build("chatml")
    raw = families()["qwen2.5-window"] | {"vocab_size": -(-len(tokenizer) // 8) * 8}
    source = write_folder(folder / "source", raw, hf_tensors(ModelConfig.from_hf(raw)))
    tokenizer.save_pretrained(source)
    convert(source, folder / "tiny")
    return folder / "tiny"


# Rules


def test_rules_by_hand():
    config, mesh = ModelConfig.from_hf(raw_config()), abstract(data=2, fsdp=2, model=2)
    assert {name: tuple(parameter_spec(name, config, mesh)) for name in PARAMETERS} == {
        "embed": ("model", "fsdp"), "head": ("model", "fsdp"), "norm": ("fsdp",),
        "attn_norm": ("fsdp",), "mlp_norm": ("fsdp",), "q": ("fsdp", "model"),
        "k": ("fsdp", "model"), "v": ("fsdp", "model"), "o": ("model", "fsdp"),
        "gate": ("fsdp", "model"), "up": ("fsdp", "model"), "down": ("model", "fsdp"),
        "q_bias": ("model",), "k_bias": ("model",), "v_bias": ("model",),
        "q_norm": (None,), "k_norm": (None,),
    }  # fmt: skip
    # two key/value heads on four devices: each has them whole
    assert parameter_spec("k", config, abstract(model=4)) == PartitionSpec("fsdp", None)
    caches = activation_sharding((4, 3, 8, 2, 9, 16), "LXBKTH", mesh).spec
    assert caches == PartitionSpec(None, None, ("data", "fsdp"), "model", None, None)
    assert activation_sharding((8, 1), "BK", abstract(data=8, model=2)).spec[1] is None


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ({"model": 8}, "q: 4 query heads cannot be divided by model=8"),
        ({"fsdp": 5}, r"embed: 64 \(D\) cannot be divided by fsdp=5"),
        ({"model": 3}, r"q: 4 query heads"),
    ],
)
def test_what_cannot_be_divided_is_named(sizes, what):
    config = ModelConfig.from_hf(raw_config(vocab_size=96 * 3))
    with pytest.raises(InputError, match=what):
        [parameter_spec(name, config, abstract(**sizes)) for name in PARAMETERS]
    with pytest.raises(InputError, match="6 prompts at once cannot be divided by data x fsdp = 4"):
        activation_sharding((6, 5), "BS", abstract(data=4))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("date=4", "no axis is called 'date'; did you mean 'data'"),
        ("data=4,data=2", "names data twice"),
        ("data", "'data' needs a size"),
        ("model=0", "'model=0' needs a size"),
        ("", "no axis is called ''"),
    ],
)
def test_mesh_that_cannot_be_read(text, what):
    with pytest.raises(InputError, match=what):
        parse_mesh(text)


def test_more_devices_than_there_are():
    assert parse_mesh("model=2, data=4") == {"data": 4, "fsdp": 1, "model": 2}
    count = jax.device_count() + 1
    with pytest.raises(InputError, match=f"data={count} is of {count} devices, there are"):
        make_mesh(f"data={count}")


def test_batches_hold_the_same_prompts_on_any_mesh():
    ids = [[1] * n for n in (3, 4, 5, 6, 7)]
    plain, padded = make_batches(ids, 3), make_batches(ids, 3, abstract(data=4))
    assert [b.indices for b in plain] == [b.indices for b in padded] == [(0, 1, 2), (3, 4)]
    assert [len(b.lengths_B) for b in padded] == [4, 4]
    assert padded[1].padded_indices == (3, 4, 3, 3)
    assert (whole_rows(8, abstract(data=4)), whole_rows(5, None)) == (8, 5)


def test_processes_are_joined_if_there_are_several(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: joined.append(args))
    monkeypatch.setattr(distributed, "_on_tpu", lambda _: False)
    distributed.initialize({})
    distributed.initialize({"SLURM_STEP_NUM_TASKS": "1"})
    assert joined == []
    distributed.initialize({"SLURM_STEP_NUM_TASKS": "4"})
    distributed.initialize({"OMPI_COMM_WORLD_SIZE": "2"})
    address = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
    distributed.initialize(address)
    assert joined == [(), (), ("a:1", 3, 2)]
    with pytest.raises(InputError, match="JAX_PROCESS_ID is not: set"):
        distributed.initialize({k: v for k, v in address.items() if k != "JAX_PROCESS_ID"})


# Tables


def commands(tiny_path, protocol, folder, mesh=None) -> dict[str, list]:
    """A command of each kind that runs a model, on few prompts; batches that no mesh divides."""
    on = ["--mesh", mesh] if mesh else []
    few = ["--batch-size", 5, "--limit", 3, *on]
    return {
        "sweep": ["sweep", tiny_path, "--out", folder / "sweep", "--max-new-tokens", 6, *few],
        "policies": [
            "sweep", tiny_path, "--out", folder / "policies", "--max-new-tokens", 5, "--exits",
            "2-4", "--policy", "top1=0.02,0.04", "patience=2", "fixed=3", "oracle", *few,
        ],
        "decide": [
            "decide", tiny_path, "--out", folder / "decide", "--protocol", protocol, "--votes", 2,
            "--temperature", 1.0, "--cuts", 0, 2, "--exits", "2,4", "--cost-rounds", 0, *few,
        ],
        "probe": [
            "probe", tiny_path, "--out", folder / "probe", "--positions", "instruction", "response",
            "--folds", 4, "--draws", 20, "--strengths", 0.1, "--batch-size", 7, "--limit", 20, *on,
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def reference(tiny_path, protocol, tmp_path_factory, quick_programs):
    """What one device says: {command: its run}, made here when asked for."""
    folder = tmp_path_factory.mktemp("one")
    expected = commands(tiny_path, protocol, folder)

    def of(*names):
        for name in names:
            if not (folder / name).exists():
                assert main(list(map(str, expected[name]))) == 0
        return [folder / name for name in names]

    return of


def test_a_mixed_mesh_and_two_processes(tiny_path, protocol, reference, tmp_path, quick_programs):
    """Killed on one mesh, gone on with on another, by two processes: the tables of one device."""
    expected = commands(tiny_path, protocol, tmp_path, "data=2,fsdp=2,model=2")["sweep"]
    (killed,) = pod.start([expected], tmp_path, JAXDEPTH_KILL_AFTER="2")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    expected[-1] = "data=4,model=2"
    outputs = pod.run([expected], tmp_path, processes=2)
    assert "first token" in outputs[0]
    assert "first token" not in outputs[1]  # one of them shows what is done
    (one,) = reference("sweep")
    tables = pod.same_tables(one, tmp_path / "sweep")
    assert {"first_token", "generations", "curve"} <= tables


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_tables_do_not_depend_on_the_mesh(tiny_path, protocol, reference, tmp_path, mesh):
    expected = commands(tiny_path, protocol, tmp_path, mesh)
    pod.run(list(expected.values()), tmp_path)
    for one, name in zip(reference(*expected), expected, strict=True):
        pod.same_tables(one, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=8", "data=2,model=4", "data=2,fsdp=2,model=2"])
def test_tables_do_not_depend_on_processes(tiny_path, protocol, reference, tmp_path, mesh):
    expected = commands(tiny_path, protocol, tmp_path, mesh)
    pod.run(list(expected.values()), tmp_path, processes=2)
    for one, name in zip(reference(*expected), expected, strict=True):
        pod.same_tables(one, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_and_resumed_on_other_meshes(
    tiny_path, protocol, reference, tmp_path, seed
):
    rng = np.random.default_rng(seed)
    names = ("sweep", "policies", "decide", "probe")
    for mesh in rng.permutation(MESHES):
        expected = commands(tiny_path, protocol, tmp_path, str(mesh))
        kill = {"JAXDEPTH_KILL_AFTER": str(rng.integers(1, 4))}
        (killed,) = pod.start([expected[n] for n in names], tmp_path, **kill)
        killed.communicate(timeout=600)
        assert killed.returncode == -signal.SIGKILL
    expected = commands(tiny_path, protocol, tmp_path, "data=8")
    pod.run([expected[n] for n in names], tmp_path, processes=2)
    for one, name in zip(reference(*names), names, strict=True):
        pod.same_tables(one, tmp_path / name)


@pytest.mark.slow
def test_gradients_do_not_depend_on_the_mesh():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    script = Path(__file__).parents[1] / "helpers" / "mesh_gradients.py"
    meshes = ("data=8", "model=4", "data=2,fsdp=2,model=2")
    subprocess.run([sys.executable, script, *meshes], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_tuning_does_not_depend_on_the_mesh(tiny_path, tmp_path, processes):
    """Ten steps; on the mesh killed and gone on with."""
    words = [
        "tune", tiny_path, "--steps", 10, "--save-every", 4, "--rank", 2, "--harmful", 2,
        "--lookalike", 2, "--benign", 3, "--borderline", 1, "--answer-tokens", 8, "--warmup", 1,
        "--exits-per-step", 2, "--learning-rate", 1e-3, "--out",
    ]  # fmt: skip
    pod.run([[*words, tmp_path / "one"]], tmp_path)
    on = [[*words, tmp_path / "many", "--mesh", mesh] for mesh in MESHES[::-1]]
    (killed,) = pod.start(on[:1], tmp_path, JAXDEPTH_KILL_AFTER="2")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    pod.run(on[1:2], tmp_path, processes)
    one, many = (read_table(tmp_path / n, "loss").to_pydict() for n in ("one", "many"))
    assert one["exits"] == many["exits"]
    for name in ("loss", "full", "early", "distill", "grad_norm"):
        np.testing.assert_allclose(many[name], one[name], rtol=1e-4, atol=1e-6, err_msg=name)


# Being stopped


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_ends_a_run_between_two_chunks(tiny_path, tmp_path, processes):
    """One of two processes gets the signal and both stop; then one process resumes alone."""
    words = ["sweep", tiny_path, "--out", tmp_path / "run", "--max-new-tokens", 0]
    started = pod.start([[*words, "--batch-size", 1, "--limit", 40]], tmp_path, processes)
    parts = tmp_path / "run" / "parts" / "first_token"
    deadline = time.monotonic() + 120
    while not (parts.is_dir() and any(parts.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    started[-1].send_signal(signal.SIGTERM)
    for process in started:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 143
        assert "Traceback" not in stderr
    assert len(list(parts.iterdir())) < 80
    how = {"max_new_tokens": 0, "batch_size": 1, "limit": 40}
    runs = [
        sweep(settings_of(Sweep, tiny_path, tmp_path / name, **how)) for name in ("run", "whole")
    ]
    pod.same_tables(*(run.path for run in runs))


@pytest.mark.slow
def test_damage_that_one_process_finds_stops_all(tiny_path, tmp_path):
    damaged = tmp_path / "tiny"
    shutil.copytree(tiny_path, damaged)
    manifest = json.loads((damaged / "jaxdepth.json").read_text())
    manifest["leaves"]["layers.1.q"]["sha256"] = "0" * 64  # the second process checks this array
    del manifest["sha256"]
    manifest["sha256"] = checkpoint._own_digest(manifest)
    (damaged / "jaxdepth.json").write_text(json.dumps(manifest))
    words = ["sweep", damaged, "--out", tmp_path / "run", "--limit", 1]
    started = pod.start([words], tmp_path, processes=2)
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2]
    (line,) = [line for line in errors[0].splitlines() if line.startswith("jaxdepth: error")]
    assert "array layers.1.q is not what was converted" in line
    assert "jaxdepth: error" not in errors[1]


def test_a_profile_is_written(tiny_path, tmp_path):
    words = ["sweep", tiny_path, "--out", tmp_path / "run", "--limit", 1, "--max-new-tokens", 0]
    assert main([str(w) for w in [*words, "--profile", tmp_path / "profile"]]) == 0
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(("backend", "folder"), [("cpu", None), ("gpu", "jaxdepth/programs")])
def test_the_compilation_cache_is_used_on_accelerators(monkeypatch, backend, folder):
    updated = {}
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    profiling.use_compilation_cache()
    assert updated.get("jax_compilation_cache_dir", "").endswith(folder or "")
    assert bool(updated) == (folder is not None)


# Attention


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's attention needs a GPU")
@pytest.mark.parametrize("window", [None, 7])
def test_fused_attention_equals_plain(window):
    from jaxdepth.model.attention import attend

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 64, n, 64)) for n in (4, 2, 2))
    fused = attend(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), window)
    plain = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), window)
    np.testing.assert_allclose(fused.astype(np.float32), plain, atol=2e-2)
