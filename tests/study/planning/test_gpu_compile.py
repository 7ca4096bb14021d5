"""Programs as a GPU's compiler makes them, at 7B shapes (`make test-gpu-compile`, no GPU needed).

Nothing is autotuned without a card, and on one either of two kinds of products may be chosen: the
compiler's own (Triton) and the library's (cuBLAS). Each test of products holds for both.
"""

import functools
import json
import re
from dataclasses import replace

import jax
import pytest

from jaxdepth.depth.lanes import memory, plan_segments
from jaxdepth.study.planning import programs
from jaxdepth.study.planning.compiled import bytes_per_device
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.shapes import shapes_of
from jaxdepth.study.planning.traffic import weight_traffic

pytestmark = pytest.mark.gpu_compile

MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None,
    "tie_word_embeddings": False, "max_position_embeddings": 32768,
}  # fmt: skip
B, S, T = 8, 256, 64
MB = 2**20


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Mistral-7B's shapes in bfloat16 on some H100s, with so many layers."""
    file = tmp_path_factory.mktemp("model") / "config.json"

    def of(gpus: int = 1, mesh: str = "data=1", layers: int = 32, **changes):
        file.write_text(json.dumps(MISTRAL_7B | {"num_hidden_layers": layers}))
        sizes = {"length": S, "new_tokens": T, "sequences": 0} | changes
        return shapes_of(Plan(file, gpus=gpus, gpu="H100", mesh=mesh, **sizes))

    return of


@pytest.fixture(params=["Triton", "cuBLAS"])
def products(request, monkeypatch) -> str:
    """Programs with one kind of products."""
    options = {"xla_gpu_enable_triton_gemm": request.param == "Triton"}
    compile_ = functools.partialmethod(jax.stages.Lowered.compile, compiler_options=options)
    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
    return request.param


def step_of(program):
    """What one step of the loop over tokens moves: its first loop's, without what is around it."""
    one, none = (weight_traffic(program.text, trips) for trips in (1, 0))
    return {name: vars(one)[name] - vars(none)[name] for name in vars(one)}


def assert_reads_each_weight_once(shapes, program):
    """In a step, in a few kernels a layer; temporaries are caches and logits, and little else."""
    step, layers = step_of(program), shapes.config.num_hidden_layers
    embedding = bytes_per_device(shapes.model.embed)  # of which a step reads a row for each lane
    assert step["copied"] == 0, f"{step['copies']} copies"
    assert step["read"] <= 1.05 * (bytes_per_device(shapes.model) - embedding)
    # Besides the layers, what embeds, unembeds and chooses.
    assert step["kernels"] <= 24 * (layers + 1)
    assert len(re.findall(r" while\(", program.text)) == 1
    planned = memory(shapes.config, plan_segments(shapes.exits), B, S, T, 1, 2)
    beyond = program.temporaries - planned.lane_cache - planned.logits
    assert beyond < 0.01 * (planned.prompt_cache + planned.lane_cache) + 64 * MB, f"{beyond:,}"


# Layers are written out: four show what happens in each.


def test_decoding_reads_each_weight_once_a_step(shapes, products):
    made = shapes(layers=4)
    assert_reads_each_weight_once(made, programs.compilers(made, B)["decode, all exits"]())


def test_stacked_layers_would_be_copied(shapes):
    made = replace(shapes(layers=4), apart=False)
    step = step_of(programs.compilers(made, B)["decode, all exits"]())
    weights = bytes_per_device(made.model) - bytes_per_device(made.model.embed)
    assert step["read"] + step["copied"] > 1.5 * weights


@pytest.mark.parametrize("mesh", ["data=8", "model=8"])
def test_so_does_each_of_eight_cards(shapes, mesh):
    made = shapes(8, mesh, layers=2)
    rows = 8 * B if mesh == "data=8" else B
    program = programs.compilers(made, rows)["decode, all exits"]()
    assert step_of(program)["copies"] == 0
    assert bool(program.collectives) == (mesh == "model=8")


def test_all_32_layers(shapes):
    made = shapes()
    program = programs.compilers(made, B)["decode, all exits"]()
    assert_reads_each_weight_once(made, program)
    assert program.fits


def test_32_layers_compile_in_at_most_twice_the_time_of_stacked_ones(shapes, import_tool):
    """In processor seconds, which other work on the machine changes little."""
    seconds_of = import_tool("compile_time").seconds_of
    seconds_of(shapes(layers=1))  # what only the first compilation in a process takes
    made = shapes()
    stacked, apart = (seconds_of(replace(made, apart=apart)) for apart in (False, True))
    assert apart <= 2 * stacked


@pytest.mark.parametrize("name", ["prefill", "first token, all exits"])
def test_prompts_have_fused_attention_and_no_weight_is_copied(shapes, products, name):
    made = shapes(layers=2)
    program = programs.compilers(made, 64)[name]()
    assert program.text.count("__cudnn$fmha") >= 2
    assert f"f32[64,32,{S},{S}]" not in program.text  # scores
    assert program.weights.copies == 0


def test_a_tuning_step_fits_a_card(shapes):
    """LoRA on all matrices of all 32 layers: 8 sequences of 320 tokens.

    Kept from every layer, what its matrices are multiplied by would be 10 GB: it is computed again.
    """
    made = shapes(sequences=8)
    program, c = programs.tuning_step(made), made.config
    of_layer = 2 * 8 * (S + T) * (4 * c.hidden_size + 3 * c.intermediate_size)
    assert program.fits
    assert program.temporaries < c.num_hidden_layers * of_layer / 3
