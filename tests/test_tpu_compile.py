"""The decode step as a TPU compiler sees it, at 7B shapes (`make test-tpu-compile`, no TPU needed).

Eight layers of a 7B model: what is copied per layer shows, and one chip of v5e holds it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdepth.config import ModelConfig, RopeConfig
from jaxdepth.depth import decode as engine
from jaxdepth.depth.lanes import memory, plan_segments
from jaxdepth.depth.sampling import Sampling, lane_keys
from jaxdepth.depth.talk import Speak
from jaxdepth.model.cache import LaneCache
from jaxdepth.model.leaves import leaf_shapes
from jaxdepth.model.mistral import Mistral
from jaxdepth.refusal.deliberate import Deliberate, Rule

pytestmark = pytest.mark.tpu

LAYERS = 8


@pytest.fixture(scope="module")
def compiled(request):
    """All exits of 8 prompts of 256 tokens, 64 new ones, bfloat16, compiled for one v5e chip.

    Children: two to each lane, which go on from what it has said, close a thought and decide.
    """
    from jax.experimental import topologies

    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = jax.sharding.Mesh(np.array(chips[:1]), ("chip",))
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def array(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

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
    model = Mistral(config, {name: array(s) for name, s in leaf_shapes(config).items()})
    exits, B, S, T = range(1, LAYERS + 1), 8, 256, 64
    plan = plan_segments(exits)
    cache = engine.PromptCache(*(array((LAYERS, B, 8, S, 128)),) * 2)
    talk, parent, children = Speak(Sampling(), array((1,), jnp.int32)), None, 1
    if request.param == "children":
        children = 2
        kept = tuple(
            LaneCache(*(array((s.last - s.first, s.exits, B, 8, T, 128)),) * 2) for s in plan
        )
        parent = engine.Parent(kept, array((LAYERS * children, B), jnp.int32))
        one = array((1, 1), jnp.int32)
        talk = Deliberate(
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
    X = LAYERS * children
    keys = jax.eval_shape(lambda: lane_keys(range(B), [*exits] * children, [0]).reshape(X, B))
    lowered = engine.decode.trace(
        model,
        cache,
        array((X, B, config.hidden_size)),
        array((B,), jnp.int32),
        array((X,), jnp.int32),
        array(keys.shape, keys.dtype),
        talk,
        parent,
        plan=plan,
        samples=children,
        max_new_tokens=T,
    ).lower(lowering_platforms=("tpu",))
    return lowered.compile(), memory(config, plan, B, S, T, children, 2)


@pytest.mark.parametrize("compiled", ["generate"], indirect=True)
def test_a_step_holds_its_caches_and_no_copy_of_them(compiled):
    program, planned = compiled
    temporaries = program.memory_analysis().temp_size_in_bytes
    beyond = temporaries - planned.lane_cache - planned.logits
    assert beyond < 0.01 * (planned.prompt_cache + planned.lane_cache), f"{beyond:,} bytes"


@pytest.mark.parametrize("compiled", ["generate", "children"], indirect=True)
def test_a_step_scatters_nothing(compiled):
    assert "scatter(" not in compiled[0].as_text()
