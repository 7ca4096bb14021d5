"""Programs as a TPU compiler sees them, at 7B shapes (`make test-tpu-compile`, no TPU needed).

Eight layers of a 7B model on one chip show what is copied for each layer. All layers on slices show
that memory and collectives are those that the rules of `jaxdepth.model.sharding` imply.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdepth.depth import decode as engine
from jaxdepth.depth.lanes import memory, plan_segments
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.model.cache import LaneCache
from jaxdepth.model.config import ModelConfig, RopeConfig
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import parameter_shapes
from jaxdepth.refusal.deliberate import DeliberationSampler, Rule
from jaxdepth.study.planning.compiled import bytes_per_device
from jaxdepth.study.planning.programs import compile_all
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.shapes import shapes_of

pytestmark = pytest.mark.tpu

LAYERS = 8


@pytest.fixture(scope="module")
def compiled(request):
    """All exits of 8 prompts of 256 tokens, 64 new ones, bfloat16, compiled for one v5e chip.

    Forks: two of each lane, which continue its tokens, close a thought and decide.
    """
    from jax.experimental import topologies

    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = jax.sharding.Mesh(np.array(chips[:1]), ("chip",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def array(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    config = ModelConfig(
        vocab_size=32768,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=LAYERS,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope=RopeConfig(1e6),
        sliding_window=None,
        tie_word_embeddings=False,
        max_position_embeddings=32768,
    )
    model = Mistral(config, {name: array(s) for name, s in parameter_shapes(config).items()})
    exits, B, S, T = range(1, LAYERS + 1), 8, 256, 64
    plan = plan_segments(exits)
    cache = engine.PromptCache(*(array((LAYERS, B, 8, S, 128)),) * 2)
    sampler, prefix, forks = TokenSampler(Sampling(), array((1,), jnp.int32)), None, 1
    if request.param == "forks":
        forks = 2
        kept = tuple(
            LaneCache(*(array((s.last - s.first, s.exits, B, 8, T, 128)),) * 2) for s in plan
        )
        prefix = engine.SharedPrefix(kept, array((LAYERS * forks, B), jnp.int32))
        one = array((1, 1), jnp.int32)
        sampler = DeliberationSampler(
            close=array((4,), jnp.int32),
            verdicts=array((3,), jnp.int32),
            stop_tokens=array((1,), jnp.int32),
            budgets=one,
            forced=one,
            script=None,
            answer=array((), jnp.int32),
            sampling=Sampling(),
            rule=Rule(),
        )
    X = LAYERS * forks
    keys = jax.eval_shape(lambda: lane_keys(range(B), [*exits] * forks, [0]).reshape(X, B))
    lowered = engine.decode.trace(
        model,
        cache,
        array((X, B, config.hidden_size)),
        array((B,), jnp.int32),
        array((X,), jnp.int32),
        array(keys.shape, keys.dtype),
        sampler,
        prefix,
        plan=plan,
        samples=forks,
        max_new_tokens=T,
    ).lower(lowering_platforms=("tpu",))
    return lowered.compile(), memory(config, plan, B, S, T, forks, 2)


@pytest.mark.parametrize("compiled", ["generate"], indirect=True)
def test_a_step_holds_its_caches_and_no_copy_of_them(compiled):
    program, planned = compiled
    temporaries = program.memory_analysis().temp_size_in_bytes
    beyond = temporaries - planned.lane_cache - planned.logits
    assert beyond < 0.01 * (planned.prompt_cache + planned.lane_cache), f"{beyond:,} bytes"


@pytest.mark.parametrize("compiled", ["generate", "forks"], indirect=True)
def test_a_step_scatters_nothing(compiled):
    assert "scatter(" not in compiled[0].as_text()


# On slices

MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None,
    "tie_word_embeddings": False, "max_position_embeddings": 32768,
}  # fmt: skip
SLICES = {
    "v5e:2x4": "data=2,model=4",
    "v5e:4x4": "data=4,model=4",
    "v5e:16x16": "data=64,model=4",
    "v5p:4x4x4": "data=16,model=4",
}


def shapes(folder, topology: str, mesh: str, **changes):
    layers = changes.pop("layers", 32)
    file = folder / "config.json"
    file.write_text(json.dumps(MISTRAL_7B | {"num_hidden_layers": layers}))
    return shapes_of(Plan(file, topology=topology, mesh=mesh, sequences=0, **changes))


@pytest.mark.parametrize("topology", SLICES)
def test_a_sweep_of_all_exits_on_slices(tmp_path, topology):
    made = shapes(tmp_path, topology, SLICES[topology])
    rows = made.mesh.shape["data"] * 8  # 8 prompts a chip
    first, prefill, decode = compile_all(made, rows)
    c, segments = made.config, plan_segments(made.exits)
    lanes = sum((s.last - s.first) * s.exits for s in segments)
    X, B, D, S, T = 32, 8, c.hidden_size, 256, 64

    # Arguments: heads, MLP and vocabulary in four, prompts by data, nothing else divided.
    per_layer = (D * 4096 * 2 + D * 1024 * 2 + 3 * D * c.intermediate_size) / 4 + 2 * D
    weights = 2 * (32 * per_layer + 2 * c.vocab_size * D / 4 + D)
    assert bytes_per_device(made.model) == weights
    cache = 2 * 2 * 32 * B * 2 * S * 128
    assert first.arguments == pytest.approx(weights, rel=0.05)
    assert decode.arguments == pytest.approx(weights + cache + 2 * X * B * D, rel=0.05)
    assert decode.caches == pytest.approx(cache + 2 * 2 * lanes * B * 2 * T * 128)

    # Sent: after `o` and after `down` a sum of the lanes that run, and one at the embedding; an
    # argmax over the vocabulary asks for little.
    step = 2 * (2 * lanes * B * D + X * B * D)
    sent = sum(decode.collectives.values()) / (T - 1)
    assert sent == pytest.approx(step, rel=0.02)
    assert sum(prefill.collectives.values()) == pytest.approx(
        2 * (2 * 32 * B * S * D + B * S * D), rel=0.05
    )
    assert all(program.fits for program in (first, prefill, decode))


def test_a_program_does_not_grow_with_the_layers(tmp_path):
    """Four exits at the same shares of the depth: as many instructions at 16 layers and at 64."""
    counts = []
    for layers in (16, 64):
        exits = ",".join(str(layers * k // 4) for k in (1, 2, 3, 4))
        made = shapes(tmp_path, "v5e:4x4", "data=4,model=4", layers=layers, exits=exits)
        counts.append([program.instructions for program in compile_all(made, 32)])
    assert counts[0] == counts[1]
