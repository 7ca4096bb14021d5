"""`jaxdepth plan`: counts against arithmetic and programs of known cost, and errors.

Programs of a TPU\'s compiler are in test_tpu_compile.py.
"""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from compiled_matmuls import compiled_matmul_flops
from tiny import model_of, prompts, raw_config

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.study.planning.chips import GPUS, TPUS
from jaxdepth.study.planning.compiled import bytes_per_device, collective_bytes
from jaxdepth.study.planning.flops import matmul_flops
from jaxdepth.study.planning.programs import TUNING, Exhausted
from jaxdepth.study.planning.roofline import Planned, Program
from jaxdepth.study.planning.run import plan
from jaxdepth.study.planning.search import largest_batch
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.shapes import shapes_of
from jaxdepth.study.planning.summary import plan_lines
from jaxdepth.study.planning.traffic import Traffic

CHIP = GPUS["H100"]


@pytest.fixture
def config_file(tmp_path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(raw_config()))
    return file


# The program of one chip, in XLA\'s text: a loop of 5, in it a sum of 2 x 3 float32 and, twice, a
# gather that was started; outside a loop that does not say how often it runs. What only a TPU's
# compiler writes: a gather in two fusions of a chain, and a reduce-scatter that is a fusion.
PROGRAM = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %r = f32[] add(%a, %b)
}
%body (p: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %sum = f32[2,3]{1,0} all-reduce(%x), to_apply=%add
  %call = f32[2,3]{1,0} call(%sum), to_apply=%inner
}
%inner (p: f32[2,3]) -> f32[2,3] {
  %g0 = (bf16[2,3]{1,0}, bf16[4,3]{1,0}) all-gather-start(%y), dimensions={0}
  %g1 = bf16[4,3]{1,0} all-gather-done(%g0)
  %g2 = bf16[4,3]{1,0} all-gather(%y), dimensions={0}
}
%less (p: (s32[], f32[2,3])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  %p = (s32[], f32[2,3]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}
%going (p: (s32[], pred[])) -> pred[] {
  ROOT %and = pred[] and(%a, %b)
}
%outer (p: (s32[], pred[])) -> (s32[], pred[]) {
  %w = (s32[], f32[2,3]) while(%s), condition=%less, body=%body
  %m = pred[7]{0} collective-permute(%z), source_target_pairs={{0,1}}
}
%chain.1 (p: bf16[5]) -> (bf16[10], u32[]) {
  %c1 = bf16[10]{0} all-gather(%p), channel_id=2, frontend_attributes={chain_id="0"}
  ROOT %s1 = (bf16[10]{0}, u32[]) custom-call(%c1), custom_call_target="AsyncCollectiveStart"
}
%chain.2 (p: bf16[5]) -> bf16[10] {
  %c2 = bf16[10]{0} all-gather(%p), channel_id=2, frontend_attributes={chain_id="0"}
  ROOT %s2 = bf16[10]{0} custom-call(%c2), custom_call_target="AsyncCollectiveDone"
}
%all-reduce-scatter.1 (p: f32[8]) -> f32[4] {
  %whole = f32[8]{0} all-reduce(%p), channel_id=3, to_apply=%add
  ROOT %part = f32[4]{0} dynamic-slice(%whole, %i), dynamic_slice_sizes={4}
}
ENTRY %main (a: f32[2,3]) -> f32[2,3] {
  %once = f32[] all-reduce(%a), to_apply=%add
  %f1 = (bf16[10]{0}, u32[]) fusion(%b), kind=kCustom, calls=%chain.1
  %f2 = bf16[10]{0} fusion(%f1), kind=kCustom, calls=%chain.2
  %f3 = f32[4]{0} fusion(%d), kind=kCustom, calls=%all-reduce-scatter.1
  %e = f32[6,3]{1,0} parameter(1)
  %plain = f32[2,3]{1,0} reduce-scatter(%e), dimensions={0}, to_apply=%add
  %o = (s32[], pred[]) while(%t), condition=%going, body=%outer
}
"""


def test_collectives_by_hand():
    assert collective_bytes(PROGRAM, 3) == {
        "all-reduce": 4 + 3 * 5 * 24,
        "all-gather": 20 + 3 * 5 * 2 * 24,
        "reduce-scatter": 8 * 4 + 18 * 4,
        "collective-permute": 3 * 7,
    }
    with pytest.raises(ValueError, match="loop over outer has collectives but no trip count"):
        collective_bytes(PROGRAM)


def test_matmuls_are_those_of_the_compiled_program():
    model = model_of(raw_config())
    tokens, lengths = prompts()
    every = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0))
    jitted = jax.jit(every)
    args = model, tokens, lengths, jnp.arange(1, 5)
    counted = compiled_matmul_flops(jitted.lower(*args).compile().as_text())
    assert matmul_flops(jitted.trace(*args).jaxpr) == counted


def test_matmuls_in_loops_and_branches():
    x = jnp.ones((4, 8))
    one = 2 * 4 * 8 * 4

    def function(x):
        _, ys = jax.lax.scan(lambda c, _: (c, x @ x.T), 0, None, length=3)
        z = jax.lax.while_loop(lambda i: i[0] < 9, lambda i: (i[0] + 1, x @ x.T), (0, ys[0]))[1]
        return jax.lax.cond(z[0, 0] > 0, lambda: x @ x.T, lambda: z)

    assert matmul_flops(jax.jit(function).trace(x).jaxpr, trips=7) == (3 + 7 + 1) * one


def program(**changes) -> Program:
    plain = Program(
        "decode", 10, 4, 6, 2e12, 10**9, {"all-reduce": 10**9, "all-gather": 1}, 9, CHIP
    )
    return replace(plain, **changes)


def test_roofline_by_hand():
    plain = program()
    assert (plain.peak_bytes, plain.fits) == (16, True)
    assert program(outputs=5).peak_bytes == 21
    assert plain.times == pytest.approx(
        {"matmuls": 2e12 / 989e12, "memory": 1e9 / 3350e9, "links": (2e9 + 1) / 900e9}
    )
    assert (plain.bound_by, plain.seconds) == ("links", pytest.approx(0.0022222, rel=1e-4))
    assert program(flops=989e12).bound_by == "matmuls"
    assert not program(arguments=int(77e9)).fits
    settings = Plan(Path("m"), gpus=8)
    text = "\n".join(plan_lines(settings, Planned([program(arguments=int(77e9))], 0, None, 1.0)))
    assert "does not fit" in text
    assert "take more, or a smaller model" in text
    assert text.startswith("8 x H100 (virtual CPU devices in their place), mesh data=1")
    assert "Memory is what XLA plans for virtual CPU devices" in text
    counted = program(weights=Traffic(read=10**9, kernels=797))
    text = "\n".join(plan_lines(settings, Planned([counted], 1, None, 1.0)))
    assert "| instructions | kernels | weights read | copied |" in text
    assert "| 797 | 1.00 GB | nothing |" in text
    assert "virtual CPU devices" not in text


def fakes(sizes, refuse=()):
    """Fake programs with so many bytes for n prompts; the compiler refuses more than 60 prompts."""

    def make(name, n):
        if n > 60 or name in refuse:
            raise Exhausted
        return program(name=name, arguments=sizes[name](n), temporaries=0)

    return lambda shapes, n: {name: lambda name=name: make(name, n) for name in sizes}


def test_the_largest_batch_fits_in_every_program(config_file, monkeypatch):
    """950 bytes are usable: 85 prompts decode, 62 are prefilled, and over 60 are refused."""
    shapes = shapes_of(Plan(config_file, gpus=1, gpu_memory=1e-6))
    sizes = {"prefill": lambda n: 20 + 15 * n, "decode": lambda n: 100 + 10 * n}
    monkeypatch.setattr("jaxdepth.study.planning.programs.compilers", fakes(sizes))
    assert 58 <= largest_batch(shapes, [], 0) <= 60
    sizes["prefill"] = lambda n: 20 + 17 * n + 300 * (n > 8)  # beside the line of 1 and 2
    assert largest_batch(shapes, [], 0) == 37
    sizes["prefill"] = lambda n: 1000
    assert largest_batch(shapes, [], 0) == 0


def test_fewer_prompts_do_not_help_a_tuning_step(config_file, monkeypatch):
    sizes = {"prefill": lambda n: n, TUNING: lambda n: 1}
    monkeypatch.setattr("jaxdepth.study.planning.programs.compilers", fakes(sizes, [TUNING]))
    settings = Plan(config_file, gpus=1, prompts=4)
    planned = plan(settings)
    assert (planned.fits, planned.refused, planned.nearest) == (False, (TUNING,), None)
    assert 57 <= planned.largest <= 60
    assert f"| {TUNING} | the compiler refuses it" in "\n".join(plan_lines(settings, planned))


def test_one_device_has_all_weights(config_file):
    """The shares of a mesh are checked in test_tpu_compile.py."""
    shapes = shapes_of(Plan(config_file, gpus=1, dtype="float32"))
    parameters = sum(math.prod(a.shape) for a in jax.tree.leaves(shapes.model))
    assert bytes_per_device(shapes.model) == 4 * parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "name what to plan for"),
        ({"gpus": 1, "topology": "v5e:4x4"}, "name one of both"),
        ({"gpu": "H100", "topology": "v5e:4x4"}, "name one of both"),
        ({"gpu": "H10"}, "no figures for 'H10'; did you mean 'H100'"),
        ({"topology": "v9:4x4"}, "no figures for 'v9'"),
        ({"gpus": 1, "mesh": "data=2"}, "mesh data=2 is of 2 devices, planned are 1: "),
        ({"gpus": 2}, "mesh data=1 is of 1 devices, planned are 2.*--mesh data=2"),
        ({"gpus": 1, "prompts": 0}, "prompts is 0"),
        ({"gpus": 10_000, "mesh": "data=10000"}, "begun with"),
        ({"topology": "v5e:4x4"}, r"pip install 'jaxdepth\[tpu\]'"),
    ],
)
def test_what_cannot_be_planned(config_file, changes, message, monkeypatch):
    monkeypatch.setattr("jaxdepth.study.planning.shapes.find_spec", lambda name: None)
    monkeypatch.setattr("jaxdepth.study.planning.shapes.has_compiler", lambda: False)
    with pytest.raises(InputError, match=message):
        shapes_of(Plan(config_file, **changes))


def test_no_config_there(tmp_path, capsys):
    assert main(["plan", str(tmp_path), "--gpus", "1"]) == 2
    assert "config.json is missing" in capsys.readouterr().err


def run(config_file, *words) -> tuple[int, str]:
    command = [sys.executable, "-m", "jaxdepth", "plan", config_file, "--gpus", "8", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_plan_that_does_not_fit(config_file, quick_programs):
    """With four fifths of the memory that 64 prompts take, the plan names how many fit."""
    small = ("--mesh", "data=4,model=2", "--length", 32, "--new-tokens", 4, "--sequences", 0)
    status, output = run(config_file, *small, "--prompts", 64)
    assert status == 0, output
    needed_mb = float(re.search(r"holds ([\d.]+) MB of", output)[1])
    memory = ("--gpu-memory", 0.8 * needed_mb / 1000)
    status, output = run(config_file, *small, "--prompts", 64, *memory)
    assert status == 3, output
    assert "**does not fit**" in output
    best = int(re.search(r"nearest that does: --prompts (\d+)", output)[1])
    assert 4 <= best < 64
    assert best % 4 == 0
    status, output = run(config_file, *small, "--prompts", best, *memory)
    assert status == 0, output
    assert f"The largest sweep that fits has {best} prompts at once" in output


def test_data_alone_sends_nothing(config_file, quick_programs):
    status, output = run(config_file, "--mesh", "data=8", "--prompts", 16, "--sequences", 0)
    assert status == 0, output
    rows = [
        line.split("|") for line in output.splitlines() if re.match(r"\| (first|prefill|dec)", line)
    ]
    assert [row[7].strip() for row in rows] == ["nothing"] * 3


@pytest.mark.parametrize("chip", [*TPUS.values(), *GPUS.values()])
def test_chips_are_in_one_unit(chip):
    assert 16e9 <= chip.memory <= 200e9
    assert 100 <= chip.flops / chip.bandwidth <= 700  # operations per byte
    assert chip.links < chip.bandwidth
